//! Which container a process is in, by the names of its control groups (cgroups(7)). Asks no engine.

use std::fs;

/// The digits of a container's id, as Docker, Podman, containerd and CRI-O have it.
const ID_DIGITS: usize = 64;

/// The id of the container that the process is in; of the outermost one, because a process can make groups below its own. `None`: it is in
/// none, or has ended.
pub fn container_of(pid: u32) -> Option<String> {
    id_in(&fs::read(format!("/proc/{pid}/cgroup")).ok()?)
}

/// Each line is `number:controllers:path`. An engine names a folder of the path `ID`, `ENGINE-ID.scope` or similar.
fn id_in(groups: &[u8]) -> Option<String> {
    let lines = groups.split(|&byte| byte == b'\n');
    let paths = lines.filter_map(|line| line.splitn(3, |&byte| byte == b':').nth(2));
    paths.into_iter().find_map(|path| {
        let mut folders = path.split(|&byte| byte == b'/');
        folders.find_map(id_of)
    })
}

fn id_of(folder: &[u8]) -> Option<String> {
    let folder = std::str::from_utf8(folder).ok()?;
    let name = folder.strip_suffix(".scope").unwrap_or(folder);
    let (engine, id) = name.rsplit_once(['-', ':']).unwrap_or(("", name));
    let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    // Conmon is Podman's process beside the container, not in it.
    let is_id = id.len() == ID_DIGITS && id.bytes().all(is_digit) && !engine.ends_with("conmon");
    is_id.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outermost_container_is_found_in_the_groups_of_each_engine() {
        let (id, other) = ("0f".repeat(32), "1e".repeat(32));
        for path in [
            format!("/docker/{id}"),
            format!("/system.slice/docker-{id}.scope"),
            format!("/../{id}"),
            format!("/machine.slice/libpod-{id}.scope/container"),
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{id}.scope"),
            format!("/kubepods.slice/kubepods-burstable.slice/cri-containerd-{id}.scope"),
            format!("/kubepods/burstable/pod1/{id}"),
            format!("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{id}"),
            format!("/docker/{id}/docker/{other}"),
        ] {
            let groups = format!("0::{path}\n");
            assert_eq!(id_in(groups.as_bytes()), Some(id.clone()), "{path}");
        }
        let old = format!("12:cpuset:/\n1:name=systemd:/docker/{id}\n");
        assert_eq!(id_in(old.as_bytes()), Some(id.clone()));
        for path in [
            "/user.slice/user-1000.slice/session-1.scope".to_owned(),
            format!("/machine.slice/libpod-conmon-{id}.scope"),
            format!("/docker-{id}0.scope"),
            format!("/{}", id.to_uppercase()),
            "/a\u{fffd}b".to_owned(),
        ] {
            let groups = format!("0::{path}\n");
            assert_eq!(id_in(groups.as_bytes()), None, "{path}");
        }
        assert_eq!(id_in(b"0::/\xff\xfe"), None);
        assert_eq!(container_of(u32::MAX), None);
    }
}
