//! The channel of one build: events for its loop, the flag that stops it, and its standard error.

use std::sync::mpsc::{Receiver, Sender, channel};

use minibuild_core::StopFlag;
use minibuild_engine::machine::Event;

use crate::background::BackgroundWriter;
use crate::refusal::Refusal;

/// The way of interrupts and reports to the loop, and of what is said to standard error.
pub(crate) struct BuildChannel {
    pub sender: Sender<Event>,
    pub receiver: Receiver<Event>,
    /// Set with the first interrupt.
    pub stop: StopFlag,
    /// Standard error.
    pub out: BackgroundWriter,
}

impl BuildChannel {
    /// A channel that nothing has come through.
    pub fn new() -> Self {
        let ((sender, receiver), stop) = (channel(), StopFlag::default());
        let (of_writer, interrupt) = (stop.clone(), sender.clone());
        // Whoever reads has gone, as `head` does: for `make` and Ninja that is the end, and for Bazel an interrupt.
        let on_error = move |error: &std::io::Error| {
            if error.kind() == std::io::ErrorKind::BrokenPipe {
                let _ = interrupt.send(Event::Interrupt);
                of_writer.set();
            }
        };
        Self { sender, receiver, out: BackgroundWriter::stderr(on_error, stop.clone()), stop }
    }

    /// Fails if an interrupt came meanwhile.
    ///
    /// # Errors
    /// The interrupt.
    pub fn go_on(&self) -> Result<(), Refusal> {
        if self.stop.is_set() { Err(Refusal::interrupted()) } else { Ok(()) }
    }

    /// Writes a line, or several.
    pub fn say(&self, text: &str) {
        self.out.put(format!("{}\n", text.trim_end()).as_bytes());
    }
}
