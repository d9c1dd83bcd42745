//! What the filesystem asks of the kernel when the mount begins (INIT).

use fuser::{InitFlags, KernelConfig};

use crate::live::{KernelInfo, Tree};

/// The largest write that the kernel sends in one request. Values have at most 64 KiB; of fuser's 16 MiB buffer, only the
/// part in use becomes resident.
pub(super) const MAX_WRITE: u32 = 128 * 1024;
/// RELEASE is a background request. Past this many unanswered ones the kernel would delay and reorder them.
const MAX_BACKGROUND: u16 = 1024;
/// An older kernel works without those that it does not have.
const CAPABILITIES: [InitFlags; 7] = [
    // One slow lookup must not lock the folder.
    InitFlags::FUSE_PARALLEL_DIROPS,
    // `ls -l` takes one request for each page of names.
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // The kernel would keep a lock by inode, and a name has another inode after each write: two processes would have the
    // same lock. With these flags the kernel sends locks here, where they are refused.
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
    // A writer may map the file that it writes.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
    // Without it, the kernel (6.18) does not advance the position of an io_uring read of a direct I/O file. io_uring reads the
    // rest of its buffer there again, and the file's content comes several times over.
    InitFlags::FUSE_ASYNC_DIO,
];

/// Sets what the kernel is asked for, and records in the tree what this kernel can do.
pub(super) fn negotiate(tree: &Tree, config: &mut KernelConfig) {
    for capability in CAPABILITIES {
        let _ = config.add_capabilities(capability);
    }
    let _ = config.set_max_write(MAX_WRITE);
    let _ = config.set_max_background(MAX_BACKGROUND);
    let version = config.kernel_abi();
    let resend = config.capabilities().contains(InitFlags::FUSE_HAS_RESEND);
    tree.kernel_names().set_protocol((version.0, version.1));
    tree.set_mount_info(|info| {
        info.kernel = KernelInfo {
            fuse: format!("{}.{}", version.0, version.1),
            resend,
            epoch: false,
        };
    });
}
