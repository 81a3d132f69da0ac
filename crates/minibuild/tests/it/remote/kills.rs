//! Builds with a remote executor that are killed at random points, in every download mode.
//!
//! `scripts/chaos --remote N [SEED]` is the long form.

use super::Remote;

#[test]
fn t51_kill_9_at_random_points() {
    let remote = Remote::new();
    let flags = [&*remote.executor(), "--strategy=remote", "--download=all"];
    crate::chaos::survives(
        &flags,
        &["--download=all", "--download=toplevel", "--download=minimal", "--strategy=dynamic"],
    );
}
