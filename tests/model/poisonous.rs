//! A write on which two servers crashed is refused, and its bytes are never parsed. No test of a mount can bring this about.

use std::sync::Arc;

use simpletuner_live::live::Caller;

use crate::Broken;
use crate::processes::Table;
use crate::provider::Source;
use crate::server::{Answer, Keeper, Reply, Request, Server};

/// A server and the one process that calls it.
struct Mount {
    server: Server,
    pid: u32,
    calls: u64,
}

impl Mount {
    fn call(&mut self, request: Request) -> Reply {
        self.calls += 1;
        let caller = Caller {
            uid: 0,
            tid: self.pid,
            request: self.calls,
            is_resend: false,
        };
        self.server.send(self.calls, caller, request);
        while self.server.close_next() || self.server.store_next() {}
        self.server.reply(self.calls).unwrap()
    }
}

#[test]
fn a_value_is_not_stored_without_the_write_on_which_two_servers_crashed() {
    let table = Arc::new(Table::new(Broken::Nothing));
    let pid = table.lock().spawn(None);
    let keeper = Keeper::new(Source::store(), Source::backend(), table, Broken::Nothing);
    let mut mount = Mount {
        server: Server::new(keeper),
        pid,
        calls: 0,
    };
    let dir = mount.server.secrets_dir();
    let created = mount.call(Request::Create(dir, "N".into(), libc::O_WRONLY));
    let Ok(Answer::Created(_, opened)) = created else {
        panic!("{created:?}");
    };
    let write = |at, bytes: &[u8]| Request::Write(opened.handle, at, bytes.to_vec(), false);
    mount.call(write(0, b"begin ")).unwrap();
    mount.server.refuse_write(opened.handle);
    assert_eq!(mount.call(write(6, b"end")).unwrap_err(), libc::EIO);
    let closed = mount.call(Request::Flush(opened.handle));
    assert_eq!(closed.unwrap_err(), libc::EIO);
    assert_eq!(mount.server.truth("N"), None);
}
