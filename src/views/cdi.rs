//! The views as devices of the Container Device Interface (github.com/cncf-tags/container-device-interface, SPEC.md): a container that is
//! given the device has the view's folder.

use std::path::Path;

use serde_json::{Value, json};

/// What the devices are: `simpletuner.live/view=NAME`.
pub const KIND: &str = "simpletuner.live/view";
/// Where a container has the view.
pub const CONTAINER_PATH: &str = "/run/secrets";

/// Whether a device may have the view's name: it begins and ends with a letter or a digit.
pub fn is_device_name(view: &str) -> bool {
    let is_alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    is_alphanumeric(view.as_bytes().first()) && is_alphanumeric(view.as_bytes().last())
}

/// The specification of these views, whose folders are in `folder`. Each name must be a device's.
pub fn specification(views: &[&str], folder: &Path) -> Value {
    let devices: Vec<Value> = views.iter().map(|view| device(view, folder)).collect();
    // The earliest version that has all that is used, because engines refuse those that they do not know.
    let begins_with_digit = |view: &&str| view.as_bytes().first().is_some_and(u8::is_ascii_digit);
    let version = match views.iter().any(begins_with_digit) {
        true => "0.5.0",
        false => "0.3.0",
    };
    json!({ "cdiVersion": version, "kind": KIND, "devices": devices })
}

fn device(view: &str, folder: &Path) -> Value {
    let mount = json!({
        "hostPath": folder.join(view),
        "containerPath": CONTAINER_PATH,
        "options": ["ro", "nosuid", "nodev", "noexec", "bind"],
    });
    json!({ "name": view, "containerEdits": { "mounts": [mount] } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_a_device_whose_mount_is_its_folder() {
        let found = specification(&["trainer"], Path::new("/views"));
        let mount = json!({"hostPath": "/views/trainer", "containerPath": "/run/secrets",
            "options": ["ro", "nosuid", "nodev", "noexec", "bind"]});
        let device = json!({"name": "trainer", "containerEdits": {"mounts": [mount]}});
        let expected =
            json!({"cdiVersion": "0.3.0", "kind": "simpletuner.live/view", "devices": [device]});
        assert_eq!(found, expected);
        assert_eq!(specification(&["1"], Path::new("/"))["cdiVersion"], "0.5.0");
        assert!(is_device_name("a.b-c") && is_device_name("1"));
        assert!(!is_device_name("_a") && !is_device_name("a-") && !is_device_name("a."));
    }
}
