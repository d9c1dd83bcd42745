//! READDIR and READDIRPLUS: the tree's names, as many as the kernel has room for.

use std::sync::Arc;

use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};

use super::convert::file_type;
use super::requests::Dispatcher;
use crate::live::{Caller, Listed, LookupReply};

impl Dispatcher {
    pub(super) fn read_dir(
        self: &Arc<Self>,
        caller: Caller,
        ino: u64,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let add = |listed: Listed, next| {
            let ino = INodeNo(listed.ino);
            !reply.add(ino, next, file_type(listed.file_type), &listed.name)
        };
        let result = self.tree.read_dir(&caller, ino, offset, add);
        self.answer("readdir", result, reply, |reply, ()| reply.ok());
    }

    pub(super) fn read_dir_plus(
        self: &Arc<Self>,
        caller: Caller,
        ino: u64,
        handle: u64,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let add = |name: &str, found: &LookupReply, next| {
            let ino = INodeNo(found.attr.ino);
            let attr = self.file_attr(found.nodeid, &found.attr);
            let valid = found.attr.valid.min(found.valid);
            !reply.add(ino, next, name, &valid, &attr, Generation(0))
        };
        let result = self.tree.read_dir_plus(&caller, ino, handle, offset, add);
        self.answer("readdir", result, reply, |reply, ()| reply.ok());
    }
}
