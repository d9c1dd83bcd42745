//! The names of a path in their order, with those of the links on the way put in. For walks that look at each step.

use std::ffi::OsString;
use std::path::{Component, Path};

use rustix::io::Errno;

/// The kernel follows as many (MAXSYMLINKS).
const MAX_LINKS: usize = 40;

/// The names that are still to be followed. `..` is among them, `.` is not.
pub(crate) struct Names {
    /// The next one is the last.
    reversed: Vec<OsString>,
    links: usize,
}

impl Names {
    pub(crate) fn of(path: &Path) -> Self {
        let mut names = Self {
            reversed: Vec::new(),
            links: 0,
        };
        names.put_first(path);
        names
    }

    /// Whether no further name follows.
    pub(crate) fn is_empty(&self) -> bool {
        self.reversed.is_empty()
    }

    /// The last name was a link: the names of its target come next. If the target is absolute, the walk continues at the root.
    ///
    /// # Errors
    /// `ELOOP` if there are too many links.
    pub(crate) fn follow(&mut self, target: &Path) -> Result<(), Errno> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        self.put_first(target);
        Ok(())
    }

    fn put_first(&mut self, path: &Path) {
        let name = |component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        };
        self.reversed
            .extend(path.components().rev().filter_map(name));
    }
}

impl Iterator for Names {
    type Item = OsString;

    fn next(&mut self) -> Option<OsString> {
        self.reversed.pop()
    }
}
