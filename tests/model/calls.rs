//! What made-up programs call: open, read, write, close and so on, as Linux turns them into requests, and what the reference
//! records of each. One file, so that the calls can be compared with each other.

use std::rc::Rc;

use simpletuner_live::live::{AttrChange, Opened};
use simpletuner_live::process::ExitState;

use crate::kernel::{OnCarriedOut, Pin, World, turn};
use crate::processes::File;
use crate::reference::{Doing, Reference};
use crate::server::{Answer, Request};

/// Bytes of a page: small, so that most values have more than one.
const PAGE: u64 = 8;

impl World {
    fn reference<T>(&self, act: impl FnOnce(&mut Reference) -> T) -> T {
        act(&mut self.reference.borrow_mut())
    }

    fn now(&self) -> u64 {
        self.reference.borrow().now()
    }

    /// open(2); gives the descriptor.
    pub async fn open(self: &Rc<Self>, pid: u32, name: &str, flags: i32) -> Result<u32, i32> {
        let since = self.now();
        let disturbances = self.kernel.borrow().disturbances;
        let mut opened = self.open_once(pid, name, flags, false, since).await;
        if opened == Err(libc::ESTALE) && self.has_second_walk() {
            opened = self.open_once(pid, name, flags, true, since).await;
        }
        let (creates, excl) = (flags & libc::O_CREAT != 0, flags & libc::O_EXCL != 0);
        let is_disturbed = self.kernel.borrow().disturbances != disturbances;
        match opened {
            Ok(file) => Ok(self.table.lock().install(pid, file)),
            Err(libc::ENOENT) if !creates => {
                self.reference(|reference| reference.no_such_file("open", pid, name, since));
                Err(libc::ENOENT)
            }
            // Another process that is making it was first; and no provider has answered for a cold name.
            Err(libc::EEXIST) if excl => Err(libc::EEXIST),
            // Known limits: the next server does not know the inodes of listings, and that there is nothing is
            // forgotten when the backend's document is out of date once more.
            Err(libc::ESTALE) if is_disturbed => Err(libc::ESTALE),
            Err(errno) => {
                self.reference(|reference| reference.wrong(format!("open {name}: errno {errno}")));
                Err(errno)
            }
        }
    }

    async fn open_once(
        self: &Rc<Self>,
        pid: u32,
        name: &str,
        flags: i32,
        reval: bool,
        since: u64,
    ) -> Result<u64, i32> {
        let (creates, excl) = (flags & libc::O_CREAT != 0, flags & libc::O_EXCL != 0);
        let known = match excl || reval {
            true => None,
            false => self.known(name),
        };
        let pin = match known {
            Some(pin) => pin,
            None if creates => {
                self.lock_dir(true).await;
                let made = self.walk_or_create(pid, name, flags, reval, since).await;
                self.unlock_dir(true);
                match made? {
                    Ok(file) => return Ok(file),
                    Err(pin) => pin,
                }
            }
            None => {
                let walked = self.walk(pid, name, reval, false).await?;
                walked.ok_or(libc::ENOENT)?
            }
        };
        if creates && excl {
            return Err(libc::EEXIST);
        }
        turn().await;
        let asked = flags & !(libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC);
        let opened = match self.request(pid, Request::Open(pin.node, asked)).await? {
            Answer::Opened(opened) => opened,
            _ => unreachable!(),
        };
        let file = self.new_file(&pin, opened, flags);
        if flags & libc::O_ACCMODE == libc::O_RDONLY {
            self.reference(|reference| reference.opened_to_read(file, pid, name, since));
            return Ok(file);
        }
        let how = (creates, false, flags & libc::O_TRUNC != 0);
        self.reference(|reference| reference.opened_to_write(file, pid, name, how, since));
        if flags & libc::O_TRUNC != 0 {
            turn().await;
            let change = AttrChange {
                size: Some(0),
                ..AttrChange::default()
            };
            if let Err(errno) = self.setattr(pid, pin.node, None, change).await {
                self.put(file);
                return Err(errno);
            }
        }
        Ok(file)
    }

    async fn walk_or_create(
        self: &Rc<Self>,
        pid: u32,
        name: &str,
        flags: i32,
        reval: bool,
        since: u64,
    ) -> Result<Result<u64, Pin>, i32> {
        if let Some(pin) = self.walk(pid, name, reval, true).await? {
            return Ok(Err(pin));
        }
        let epoch = self.epoch();
        turn().await;
        let create = Request::Create(self.dir, name.into(), flags);
        let Answer::Created(found, opened) = self.request(pid, create).await? else {
            unreachable!()
        };
        self.learn(&found);
        let pin = self.pin(found.nodeid);
        // fuser gives the inode's number here, which stays until the first GETATTR.
        self.kernel
            .borrow_mut()
            .inodes
            .get_mut(&found.nodeid)
            .unwrap()
            .ino = found.nodeid;
        self.put_name(name, found.nodeid, false, epoch);
        let file = self.new_file(&pin, opened, flags);
        let how = (true, true, flags & libc::O_TRUNC != 0);
        self.reference(|reference| reference.opened_to_write(file, pid, name, how, since));
        Ok(Ok(file))
    }

    fn new_file(self: &Rc<Self>, pin: &Pin, opened: Opened, flags: i32) -> u64 {
        // It holds its inode until it is released.
        self.hold(pin.node);
        let mut kernel = self.kernel.borrow_mut();
        let inode = kernel.inodes.get_mut(&pin.node).unwrap();
        if !opened.keeps_pages {
            inode.pages.clear();
        }
        let mut table = self.table.lock();
        let number = table.number();
        let file = File {
            node: pin.node,
            handle: opened.handle,
            is_direct: !opened.keeps_pages,
            has_flush: !opened.keeps_pages,
            writes: flags & libc::O_ACCMODE != libc::O_RDONLY,
            appends: flags & libc::O_APPEND != 0,
            ino: inode.ino,
            refs: 1,
        };
        table.files.insert(number, file);
        number
    }

    fn file(&self, number: u64) -> File {
        self.table.lock().files[&number].clone()
    }

    /// The last reference may be gone.
    fn put(&self, number: u64) {
        let file = {
            let mut table = self.table.lock();
            let file = table.files.get_mut(&number).unwrap();
            file.refs -= 1;
            file.clone()
        };
        if file.refs == 0 {
            self.reference(|reference| reference.released(number));
            if file.handle != 0 {
                self.release(number, file.handle);
            }
            self.unpin(file.node);
        }
    }

    pub async fn close(self: &Rc<Self>, pid: u32, fd: u32) {
        let (number, others, is_over) = {
            let mut table = self.table.lock();
            let proc = table.procs.get_mut(&pid).unwrap();
            let Some(number) = proc.fds.remove(&fd) else {
                return;
            };
            let others: Vec<u64> = proc.fds.values().copied().collect();
            (number, others, proc.end.is_some())
        };
        let file = self.file(number);
        let others = if is_over { Vec::new() } else { others };
        let must = self.reference(|reference| reference.closes(number, pid, &others));
        if file.has_flush
            && let Err(errno) = self.request(pid, Request::Flush(file.handle)).await
        {
            self.reference(|reference| reference.wrong(format!("close: errno {errno}")));
        }
        self.reference(|reference| reference.closed(number, pid, must));
        self.put(number);
    }

    /// The end of a process: it closes what it has.
    pub async fn end(self: &Rc<Self>, pid: u32, killed: bool) {
        let fds: Vec<u32> = {
            let mut table = self.table.lock();
            let proc = table.procs.get_mut(&pid).unwrap();
            proc.end = Some(if killed {
                ExitState::Killed
            } else {
                ExitState::Exited
            });
            proc.fds.keys().copied().collect()
        };
        if killed {
            self.reference(|reference| reference.killed(pid));
        }
        for fd in fds {
            self.close(pid, fd).await;
            turn().await;
        }
        self.table.lock().procs.remove(&pid);
    }

    /// pread(2).
    pub async fn read(&self, pid: u32, number: u64, at: u64, size: u64) -> Vec<u8> {
        let file = self.file(number);
        let read = match file.is_direct {
            true => self.fetch(pid, &file, at, size).await,
            false => self.read_pages(pid, &file, at, size).await,
        };
        match read {
            Ok(bytes) => {
                self.reference(|reference| {
                    reference.was_read(number, at as usize, size as usize, &bytes);
                });
                bytes
            }
            Err(errno) => {
                self.reference(|reference| reference.wrong(format!("read: errno {errno}")));
                Vec::new()
            }
        }
    }

    async fn fetch(&self, pid: u32, file: &File, at: u64, size: u64) -> Result<Vec<u8>, i32> {
        let read = Request::Read(file.node, file.handle, at, size as u32);
        match self.request(pid, read).await? {
            Answer::Data(bytes) => Ok(bytes),
            _ => unreachable!(),
        }
    }

    async fn read_pages(&self, pid: u32, file: &File, at: u64, size: u64) -> Result<Vec<u8>, i32> {
        self.getattr(pid, file.node).await?;
        let len = self.kernel.borrow().inodes[&file.node].size;
        let end = (at + size).min(len);
        let mut bytes = Vec::new();
        let mut at = at;
        while at < end {
            let page = at / PAGE;
            let known = self.kernel.borrow().inodes[&file.node]
                .pages
                .get(&page)
                .cloned();
            let page_bytes = match known {
                Some(bytes) => bytes,
                None => {
                    turn().await;
                    let mut fetched = self.fetch(pid, file, page * PAGE, PAGE).await?;
                    // What is missing of a page is zeros.
                    fetched.resize(PAGE as usize, 0);
                    let mut kernel = self.kernel.borrow_mut();
                    let inode = kernel.inodes.get_mut(&file.node).unwrap();
                    inode.pages.insert(page, fetched.clone());
                    fetched
                }
            };
            let to = ((page + 1) * PAGE).min(end);
            let part = (at - page * PAGE) as usize..(to - page * PAGE) as usize;
            bytes.extend_from_slice(&page_bytes[part]);
            at = to;
        }
        Ok(bytes)
    }

    /// Attributes that the kernel does not know are asked for.
    async fn getattr(&self, pid: u32, node: u64) -> Result<u64, i32> {
        let (size, is_valid) = {
            let kernel = self.kernel.borrow();
            let inode = &kernel.inodes[&node];
            (inode.size, inode.attr_is_valid)
        };
        if is_valid {
            return Ok(size);
        }
        let Answer::Attr(attr) = self.request(pid, Request::Getattr(node)).await? else {
            unreachable!()
        };
        self.learn_attr(node, &attr);
        Ok(attr.size)
    }

    fn learn_attr(&self, node: u64, attr: &simpletuner_live::live::Attr) {
        let mut kernel = self.kernel.borrow_mut();
        let Some(inode) = kernel.inodes.get_mut(&node) else {
            return;
        };
        inode.size = attr.size;
        inode.attr_is_valid = !attr.valid.is_zero();
        inode.ino = attr.ino;
        for file in self.table.lock().files.values_mut() {
            if file.node == node {
                file.ino = attr.ino;
            }
        }
    }

    async fn setattr(
        &self,
        pid: u32,
        node: u64,
        handle: Option<u64>,
        change: AttrChange,
    ) -> Result<(), i32> {
        self.setattr_recording(pid, node, handle, change, Box::new(|_| {}))
            .await
    }

    async fn setattr_recording(
        &self,
        pid: u32,
        node: u64,
        handle: Option<u64>,
        change: AttrChange,
        on_carried_out: OnCarriedOut,
    ) -> Result<(), i32> {
        let request = Request::Setattr(node, handle, change);
        match self.request_recording(pid, request, on_carried_out).await? {
            Answer::Attr(attr) => self.learn_attr(node, &attr),
            Answer::Done => {}
            _ => unreachable!(),
        }
        Ok(())
    }

    pub async fn write(&self, pid: u32, number: u64, at: u64, bytes: &[u8]) {
        let file = self.file(number);
        let (bytes, appends) = (bytes.to_vec(), file.appends);
        let write = Request::Write(file.handle, at, bytes.clone(), appends);
        let on_carried_out = move |reference: &mut Reference| {
            reference.wrote(number, |text| {
                let at = if appends { text.len() } else { at as usize };
                let len = text.len().max(at + bytes.len());
                text.resize(len, 0);
                text[at..at + bytes.len()].copy_from_slice(&bytes);
            });
        };
        if let Err(errno) = self
            .request_recording(pid, write, Box::new(on_carried_out))
            .await
        {
            self.reference(|reference| reference.wrong(format!("write: errno {errno}")));
        }
    }

    pub async fn fsync(&self, pid: u32, number: u64) {
        let file = self.file(number);
        let on_carried_out = move |reference: &mut Reference| reference.synced(number);
        let fsync = Request::Fsync(file.handle);
        let _ = self
            .request_recording(pid, fsync, Box::new(on_carried_out))
            .await;
    }

    /// ftruncate(2).
    pub async fn resize(&self, pid: u32, number: u64, len: u64) {
        let file = self.file(number);
        let change = AttrChange {
            size: Some(len),
            ..AttrChange::default()
        };
        let on_carried_out = move |reference: &mut Reference| {
            reference.wrote(number, |text| text.resize(len as usize, 0));
        };
        let resized = self.setattr_recording(
            pid,
            file.node,
            Some(file.handle),
            change,
            Box::new(on_carried_out),
        );
        if let Err(errno) = resized.await {
            self.reference(|reference| reference.wrong(format!("ftruncate: errno {errno}")));
        }
    }

    /// fchmod(2) of what is being written.
    pub async fn chmod(&self, pid: u32, number: u64) {
        let file = self.file(number);
        let change = AttrChange {
            mode: Some(0o644),
            ..AttrChange::default()
        };
        if let Err(errno) = self
            .setattr(pid, file.node, Some(file.handle), change)
            .await
        {
            self.reference(|reference| reference.wrong(format!("fchmod: errno {errno}")));
        }
    }

    pub async fn stat(self: &Rc<Self>, pid: u32, name: &str) {
        let since = self.now();
        let mut said = self.stat_once(pid, name, false).await;
        if said == Err(libc::ESTALE) && self.has_second_walk() {
            said = self.stat_once(pid, name, true).await;
        }
        self.reference(|reference| match said {
            Ok(size) => reference.stat_said(pid, name, size, since),
            Err(libc::ENOENT) => reference.no_such_file("stat", pid, name, since),
            Err(errno) => reference.wrong(format!("stat {name}: errno {errno}")),
        });
    }

    async fn stat_once(self: &Rc<Self>, pid: u32, name: &str, reval: bool) -> Result<u64, i32> {
        let pin = self
            .walk(pid, name, reval, false)
            .await?
            .ok_or(libc::ENOENT)?;
        turn().await;
        self.getattr(pid, pin.node).await
    }

    /// truncate(2).
    pub async fn truncate(self: &Rc<Self>, pid: u32, name: &str, len: u64) {
        let doing = Doing::Truncate(name.into(), len as usize);
        self.reference(|reference| reference.begins(pid, doing));
        let mut result = self.truncate_once(pid, name, len, false).await;
        if result == Err(libc::ESTALE) && self.has_second_walk() {
            result = self.truncate_once(pid, name, len, true).await;
        }
        self.reference(|reference| reference.ended(pid, pid, result));
    }

    async fn truncate_once(
        self: &Rc<Self>,
        pid: u32,
        name: &str,
        len: u64,
        reval: bool,
    ) -> Result<(), i32> {
        let pin = self
            .walk(pid, name, reval, false)
            .await?
            .ok_or(libc::ENOENT)?;
        turn().await;
        let change = AttrChange {
            size: Some(len),
            ..AttrChange::default()
        };
        self.setattr(pid, pin.node, None, change).await
    }

    pub async fn unlink(self: &Rc<Self>, pid: u32, name: &str) {
        self.reference(|reference| reference.begins(pid, Doing::Unlink(name.into())));
        self.lock_dir(true).await;
        let result = match self.walk(pid, name, false, true).await {
            Ok(Some(_pin)) => {
                let unlink = Request::Unlink(self.dir, name.into());
                self.request(pid, unlink).await.map(drop)
            }
            Ok(None) => Err(libc::ENOENT),
            Err(errno) => Err(errno),
        };
        if result.is_ok() {
            self.unname(name);
        }
        self.reference(|reference| reference.ended(pid, pid, result));
        self.unlock_dir(true);
    }

    pub async fn rename(self: &Rc<Self>, pid: u32, from: &str, to: &str) {
        let doing = Doing::Rename(pid, from.into(), to.into());
        self.reference(|reference| reference.begins(pid, doing));
        self.lock_dir(true).await;
        let result = match self.walk(pid, from, false, true).await {
            Ok(Some(_pin)) => match self.walk(pid, to, false, true).await {
                Ok(_target) => {
                    let rename = Request::Rename(self.dir, from.into(), to.into());
                    self.request(pid, rename).await.map(drop)
                }
                Err(errno) => Err(errno),
            },
            Ok(None) => Err(libc::ENOENT),
            Err(errno) => Err(errno),
        };
        if result.is_ok() {
            self.move_name(from, to);
        }
        self.reference(|reference| reference.ended(pid, pid, result));
        self.unlock_dir(true);
    }

    /// `ls -l`.
    pub async fn list(&self, pid: u32) {
        let Ok(Answer::Dir(handle)) = self.request(pid, Request::Opendir(self.dir)).await else {
            return self.reference(|reference| reference.wrong("opendir failed"));
        };
        let mut offset = 0;
        loop {
            self.lock_dir(false).await;
            let page = Request::ReadDirPlus(self.dir, handle, offset);
            let reply = self.request(pid, page).await;
            // The answer is on its way.
            turn().await;
            let Ok(Answer::Names(names)) = reply else {
                self.reference(|reference| reference.wrong("readdir failed"));
                break;
            };
            for (name, found, next) in &names {
                offset = *next;
                if !matches!(name.as_str(), "." | "..") {
                    self.link(name, found);
                }
            }
            self.unlock_dir(false);
            if names.is_empty() {
                break;
            }
            turn().await;
        }
        self.release_dir(handle);
    }
}
