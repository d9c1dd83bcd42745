//! What the system calls a user. The user database may be far away (LDAP) and slow: only for threads that may wait. All
//! `unsafe` about it is here.

use std::ffi::CStr;

/// The most that is looked at of a user's entry.
const MOST: usize = 1024 * 1024;

/// The name of a user; `None` where the system knows none.
pub(super) fn name_of(uid: u32) -> Option<String> {
    let mut buffer = vec![0; 1024];
    loop {
        let mut entry: libc::passwd = unsafe_zeroed();
        let mut found = std::ptr::null_mut();
        // SAFETY: all pointers are to memory that lives longer than the call, and the buffer is as long as is said.
        let failed = unsafe {
            libc::getpwuid_r(
                uid,
                &mut entry,
                buffer.as_mut_ptr(),
                buffer.len(),
                &mut found,
            )
        };
        if failed == libc::ERANGE && buffer.len() < MOST {
            buffer.resize(buffer.len() * 4, 0);
            continue;
        }
        if failed != 0 || found.is_null() {
            return None;
        }
        // SAFETY: a call that found an entry has put a C string into the buffer, and its address here.
        let name = unsafe { CStr::from_ptr(entry.pw_name) };
        return name.to_str().ok().map(ToOwned::to_owned);
    }
}

fn unsafe_zeroed() -> libc::passwd {
    // SAFETY: it consists of numbers and pointers, for all of which zero is a value.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_has_a_name_and_a_user_that_is_not_there_has_none() {
        assert_eq!(name_of(0).as_deref(), Some("root"));
        assert_eq!(name_of(3_999_999_999), None);
    }
}
