//! Ctrl-C, SIGTERM and SIGHUP: the first one asks the invocation to end, the second one ends it.

use std::io::{ErrorKind, Read as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use minibuild_core::StopFlag;
use minibuild_local::ForeignChildren;
use nix::libc;
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::exit;

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// How long the second signal leaves for an end in order: commands killed, state written, events complete. A third one ends
/// that, too. With what [`minibuild_local::kill_all`] takes it stays below a second.
const ORDERLY_END: Duration = Duration::from_millis(300);

/// From now on these signals set `stop`, and `notify` is called for the first two. The process ends soon after the second one,
/// whatever its other threads wait for.
///
/// A signal that is ignored at the start stays ignored: `nohup` does that, and shells do it for what runs in the background.
///
/// # Errors
/// Those of the operating system.
pub fn listen(stop: StopFlag, notify: impl Fn() + Send + 'static) -> std::io::Result<()> {
    let (receiver, sender) = UnixStream::pair()?;
    let foreign = ForeignChildren::now();
    for signal in SIGNALS {
        if !is_ignored(signal) {
            signal_hook::low_level::pipe::register(signal as i32, sender.try_clone()?)?;
        }
    }
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || {
        if wait_for_one(&receiver) {
            // The loop hears of it before anything that the flag cuts short.
            notify();
            stop.set();
        }
        if wait_for_one(&receiver) {
            notify();
            let _ = receiver.set_read_timeout(Some(ORDERLY_END));
            wait_for_one(&receiver);
            end_now(&foreign);
        }
    })?;
    Ok(())
}

/// Has these signals end the process at once, as before [`listen`]: for a process that becomes another program.
pub fn let_go() {
    // The runtime of the standard library ignores SIGPIPE, which a program would inherit.
    for one in SIGNALS.into_iter().filter(|&one| !is_ignored(one)).chain([Signal::SIGPIPE]) {
        // SAFETY: the default action runs no code of this process.
        let _ = unsafe { signal(one, SigHandler::SigDfl) };
    }
}

/// Waits for a signal; false where there is none any more, or none in time.
fn wait_for_one(mut receiver: &UnixStream) -> bool {
    loop {
        match receiver.read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return matches!(read, Ok(1)),
        }
    }
}

/// Kills what runs and ends this process. Destructors and buffers are of other threads, which may wait for a terminal or a lock.
fn end_now(foreign: &ForeignChildren) -> ! {
    minibuild_local::kill_all(foreign);
    // SAFETY: ends the process without running anything else of it.
    unsafe { libc::_exit(exit::INTERRUPTED.into()) }
}

fn is_ignored(signal: Signal) -> bool {
    let mut now = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: asks only; the pointer is to memory of the right type, of which all zeroes are a valid value.
    let now = unsafe {
        libc::sigaction(signal as i32, std::ptr::null(), now.as_mut_ptr());
        now.assume_init()
    };
    now.sa_sigaction == libc::SIG_IGN
}
