//! Tests of the simulator.

use super::model::{Action, Workload, us};

/// An action with no surprise.
pub fn action(deps: &[u32], local_ms: u32, exec_ms: u32) -> Action {
    Action {
        deps: deps.to_vec(),
        local: us(local_ms.into()),
        exec: us(exec_ms.into()),
        download: 0,
        hit: false,
        here: true,
        there: true,
        mnemonic: 0,
        history: Default::default(),
    }
}

/// A workload of these, one slot here and one worker, no latency.
pub fn workload(actions: Vec<Action>) -> Workload {
    Workload {
        name: "test".to_owned(),
        actions,
        rtt: 0,
        send_trips: 1.0,
        jobs: 1,
        workers: 1,
        remote_jobs: 400,
        kill: 0,
        cancel: Default::default(),
        outages: Vec::new(),
        mnemonics: vec!["Action".to_owned()],
        history: Default::default(),
    }
}
