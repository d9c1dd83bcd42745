//! Whether a group is its user's alone, as distributions give each user one (with umask 002). Reads `/etc/passwd` and
//! `/etc/group` only: a network directory could hang.

use std::path::Path;

use rustix::io::Errno;

/// The extended attribute that holds a file's ACL (acl(5), `linux/posix_acl_xattr.h`).
pub(crate) const ACL_ATTRIBUTE: &str = "system.posix_acl_access";

/// Whether the group has the user's name and no other member, and no ACL of the file names further users. `path` is not a link,
/// or one of `/proc/self/fd`.
pub(super) fn is_private(gid: u32, uid: u32, path: &Path) -> bool {
    let table = |path| std::fs::read_to_string(path).unwrap_or_default();
    is_private_in(&table("/etc/passwd"), &table("/etc/group"), gid, uid) && !has_acl(path)
}

fn is_private_in(passwd: &str, group: &str, gid: u32, uid: u32) -> bool {
    // name:password:number:...
    let find = |table: &str, number: u32| -> Option<Vec<String>> {
        let rows = table.lines().map(|row| row.split(':').map(str::to_owned));
        let mut rows = rows.map(Iterator::collect::<Vec<_>>);
        rows.find(|row| row.get(2).is_some_and(|field| *field == number.to_string()))
    };
    let (Some(user), Some(group)) = (find(passwd, uid), find(group, gid)) else {
        return false;
    };
    let members = group.get(3).map_or("", String::as_str);
    let mut members = members.split(',').filter(|member| !member.is_empty());
    user[0] == group[0] && members.all(|member| member == user[0])
}

/// An ACL that names users shows in the group's bits of the mode.
fn has_acl(path: &Path) -> bool {
    let acl = rustix::fs::getxattr(path, ACL_ATTRIBUTE, &mut [0; 0]);
    !matches!(acl, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_group_with_the_users_name_and_without_other_members_is_private() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\nme:x:1000:1000::/home/me:\nyou:x:1001:100::/:\n";
        let group = "root:x:0:\nme:x:1000:me\nusers:x:100:\nshared:x:50:me,you\n";
        let is_private = |gid, uid| is_private_in(passwd, group, gid, uid);
        assert!(is_private(1000, 1000) && is_private(0, 0));
        for (gid, uid) in [
            (100, 1001),
            (50, 1000),
            (1000, 1001),
            (0, 1000),
            (7, 1000),
            (1000, 7),
        ] {
            assert!(!is_private(gid, uid), "{gid} {uid}");
        }
        let joined = group.replace("1000:me", "1000:me,you");
        assert!(!is_private_in(passwd, &joined, 1000, 1000));
    }
}
