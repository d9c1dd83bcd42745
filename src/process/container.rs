//! Which container and which unit of systemd a process is in, by the names of its control groups (cgroups(7)). Asks neither an
//! engine nor systemd.

use super::fields::read;

/// The digits of a container's id, as Docker, Podman, containerd and CRI-O have it.
const ID_DIGITS: usize = 64;

/// What runs a process, by its outermost control group that says so: a process can make groups below its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlGroup {
    /// The id of its container.
    pub container: Option<String>,
    /// Its unit: `train.service`, `session-3.scope`. That of a container is the engine's, and left out.
    pub unit: Option<String>,
}

/// What runs the process. Nothing, if it has ended.
pub fn control_group_of(pid: u32) -> ControlGroup {
    let groups = read(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let container = id_in(&groups);
    let unit = match container {
        Some(_) => None,
        None => unit_in(&groups),
    };
    ControlGroup { container, unit }
}

/// The unit, as systemd finds it: the first folder behind the slices; of a user's own manager, the first one behind that.
fn unit_in(groups: &[u8]) -> Option<String> {
    paths(groups).find_map(|path| {
        let folders = path.split(|&byte| byte == b'/');
        let mut units = folders.filter_map(|folder| {
            let name = std::str::from_utf8(folder).ok()?;
            let is_unit = name.ends_with(".service") || name.ends_with(".scope");
            is_unit.then_some(name)
        });
        let first = units.next()?;
        let is_manager = first.starts_with("user@") && first.ends_with(".service");
        let unit = units.next().filter(|_| is_manager).unwrap_or(first);
        Some(unit.to_owned())
    })
}

/// The paths of the groups. Each line is `number:controllers:path`.
fn paths(groups: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = groups.split(|&byte| byte == b'\n');
    lines.filter_map(|line| line.splitn(3, |&byte| byte == b':').nth(2))
}

/// An engine names a folder of the path `ID`, `ENGINE-ID.scope` or similar.
fn id_in(groups: &[u8]) -> Option<String> {
    paths(groups).find_map(|path| {
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
        assert_eq!(control_group_of(u32::MAX), ControlGroup::default());
    }

    #[test]
    fn the_unit_is_the_outermost_one_of_the_system_or_of_the_users_own_manager() {
        for (path, unit) in [
            ("/system.slice/train.service", Some("train.service")),
            (
                "/system.slice/train.service/a.service",
                Some("train.service"),
            ),
            (
                "/user.slice/user-1000.slice/session-1.scope",
                Some("session-1.scope"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/job.service",
                Some("job.service"),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service",
                Some("user@1000.service"),
            ),
            ("/", None),
            ("/init", None),
        ] {
            let groups = format!("12:cpu:/\n0::{path}\n");
            assert_eq!(unit_in(groups.as_bytes()).as_deref(), unit, "{path}");
        }
    }
}
