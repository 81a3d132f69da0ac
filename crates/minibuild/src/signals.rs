//! Ctrl-C, SIGTERM and SIGHUP become events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use minibuild_engine::machine::Event;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// From now on these signals are interrupts of the build, and set `interrupted`. The thread lives as long as the process.
///
/// # Errors
/// Those of the operating system.
pub fn listen(sender: Sender<Event>, interrupted: Arc<AtomicBool>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _ in &mut signals {
            interrupted.store(true, Ordering::Relaxed);
            if sender.send(Event::Interrupt).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
