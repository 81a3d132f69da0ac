//! Asking the action cache.
//!
//! It does not know why a result is wanted, nor what a miss leads to.

use std::time::Duration;

use minibuild_core::{CacheAnswer, CacheLookup, ExecutionReport, ExecutionStatus, Level, RemoteEvent};
use minibuild_reapi::proto::execution as proto;

use tokio::time::Instant;

use crate::assemble::{Flawed, Parts, Wanted, assemble};
use crate::shared::Shared;

/// Answers one look-up; says how long that took once there was a connection and it was its turn.
pub(crate) async fn look_up(shared: &Shared, lookup: &CacheLookup) -> (CacheAnswer, Duration) {
    // Closed never; without a permit the look-up is merely not counted.
    let _permit = shared.lookups.acquire().await;
    shared.cache.connect().await;
    let begun = Instant::now();
    // Boxed, so that those who wait for their turn are small.
    let answer = Box::pin(ask(shared, lookup)).await;
    (answer, begun.elapsed())
}

async fn ask(shared: &Shared, lookup: &CacheLookup) -> CacheAnswer {
    match shared.cache.result(&lookup.who, lookup.depfile.as_ref()).await {
        Err(why) => CacheAnswer::Failed(why),
        Ok(None) => CacheAnswer::Miss,
        Ok(Some(message)) if message.exit_code != 0 => CacheAnswer::Miss,
        Ok(Some(message)) => usable(shared, lookup, message).await,
    }
}

async fn usable(shared: &Shared, lookup: &CacheLookup, message: proto::ActionResult) -> CacheAnswer {
    let wanted = Wanted {
        who: &lookup.who,
        outputs: &lookup.outputs,
        depfile: lookup.depfile.as_ref(),
        function: shared.config.function,
        may_lack_logs: false,
        // A result whose outputs lead to inputs is a miss: only an execution has these at hand.
        inputs: &[],
    };
    match assemble(&shared.cache, wanted, message).await {
        Ok(parts) if lookup.depfile.is_some() && parts.depfile.is_none() => CacheAnswer::Miss,
        Ok(parts) => CacheAnswer::Hit(Box::new(report(lookup, parts))),
        Err(Flawed::Refused(why)) => {
            let text = format!("the cached result of `{}` is refused: {why}", lookup.who.label);
            (shared.sink)(RemoteEvent::Message { level: Level::Warning, text });
            CacheAnswer::Miss
        }
        Err(Flawed::Lost(_) | Flawed::Problems(..)) => CacheAnswer::Miss,
        Err(Flawed::Unreachable(why)) => CacheAnswer::Failed(why),
    }
}

fn report(lookup: &CacheLookup, parts: Parts) -> ExecutionReport {
    let mut report = ExecutionReport::new(lookup.run, ExecutionStatus::Exited(0));
    report.outputs = parts.outputs;
    report.stdout = parts.stdout;
    report.stderr = parts.stderr;
    report.depfile = parts.depfile;
    report.cost.wall = parts.wall.unwrap_or_default();
    report.from_cache = true;
    report
}
