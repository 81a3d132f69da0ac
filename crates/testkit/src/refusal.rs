//! Runs on a kernel that refuses some system calls, as file systems without them do.

use nix::libc;

/// A system call that fails.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// `renameat2` with any flag: `EINVAL`, as on NFS, 9p and many FUSE file systems.
    RenameFlags,
    /// Changes of permissions of open files: `EPERM`, as on FAT.
    FileModes,
    /// `openat2`: `ENOSYS`, as in old sandboxes.
    OpenBeneath,
    /// `flock`: `ENOLCK`, as on network file systems without a lock service.
    Locks,
}

/// Does something on a thread of its own, in which the calls fail, and in all processes that it starts. `None`, loudly,
/// where the kernel does not let that be arranged.
pub fn with_refused<T: Send>(refusals: &[Refusal], work: impl FnOnce() -> T + Send) -> Option<T> {
    let filter = filter(refusals);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || install(filter).then(work));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt, jf, k }
}

fn filter(refusals: &[Refusal]) -> Vec<libc::sock_filter> {
    // Offsets in `struct seccomp_data`: the number of the call, and the low word of its fifth argument.
    const NUMBER: u32 = 0;
    const FIFTH: u32 = 16 + 4 * 8;
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let fail = |errno: i32| statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32);
    let mut filter = Vec::new();
    for refusal in refusals {
        filter.push(statement(load, NUMBER));
        match refusal {
            Refusal::RenameFlags => filter.extend([
                jump(libc::SYS_renameat2 as u32, 0, 3),
                statement(load, FIFTH),
                jump(0, 1, 0),
                fail(libc::EINVAL),
            ]),
            Refusal::FileModes => filter.extend([jump(libc::SYS_fchmod as u32, 0, 1), fail(libc::EPERM)]),
            Refusal::Locks => filter.extend([jump(libc::SYS_flock as u32, 0, 1), fail(libc::ENOLCK)]),
            Refusal::OpenBeneath => filter.extend([jump(libc::SYS_openat2 as u32, 0, 1), fail(libc::ENOSYS)]),
        }
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    filter
}

/// Whether the filter is in force for this thread.
fn install(mut filter: Vec<libc::sock_filter>) -> bool {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: both calls only read their arguments, which live until they return.
    let is_installed = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program, 0, 0) == 0
    };
    if !is_installed {
        crate::skipped("the kernel takes no seccomp filter");
    }
    is_installed
}
