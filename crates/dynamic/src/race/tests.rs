//! Single courses of races, told as data. That nothing else can happen is the explorer's to show (`tests/race`).

use minibuild_core::{Branch, BranchOutcome, ExecutionStatus, StopReason};

use super::{
    Answer, Attempt, Event, FailureClass, Halt, LocalEnd, Loser, Need, Outcome, Plan, Race, RemoteEnd, SidedFailure,
    Sides, StagingEnd, Step, Winner, Work,
};
use BranchOutcome::{Failed, Lost, Stopped, Won};
use proptest::prelude::*;

type E = Event<&'static str>;
type S = Step<&'static str>;

const START_LOCAL: E = Event::Start(Work::Local);
const START_REMOTE: E = Event::Start(Work::Execute);
const START_LOOK_UP: E = Event::Start(Work::LookUp);

fn at(number: u32) -> Attempt {
    Attempt(number)
}

fn local(number: u32, end: LocalEnd<&'static str>) -> E {
    Event::LocalEnded(at(number), end)
}

fn local_ok(number: u32) -> E {
    local(number, LocalEnd::Succeeded("local"))
}

fn local_fails(number: u32, class: FailureClass) -> E {
    local(number, LocalEnd::Failed(class, "local"))
}

fn local_stopped(number: u32) -> E {
    local(number, LocalEnd::Stopped("stopped"))
}

fn remote_ok(number: u32) -> E {
    Event::RemoteEnded(at(number), RemoteEnd::Succeeded { report: "remote", to_stage: true })
}

fn remote_fails(number: u32, class: FailureClass) -> E {
    Event::RemoteEnded(at(number), RemoteEnd::Failed(class, "remote"))
}

fn closed(number: u32) -> E {
    Event::RemoteEnded(at(number), RemoteEnd::Closed("closed"))
}

fn staged(number: u32) -> E {
    Event::Staged(at(number), StagingEnd::Complete)
}

fn set_aside(number: u32) -> E {
    Event::SetAside { attempt: at(number), is_clean: true }
}

fn published(number: u32) -> E {
    Event::Published(at(number), Ok(()))
}

fn kill(number: u32) -> S {
    Step::StopLocal(at(number), StopReason::LostRace)
}

fn drop_remote(number: u32) -> S {
    Step::DropRemote(at(number), StopReason::LostRace)
}

fn publish(number: u32, of: u32) -> S {
    Step::Publish { attempt: at(number), staged: at(of) }
}

fn ended(branch: Branch, outcome: BranchOutcome) -> S {
    Step::BranchEnded(branch, outcome)
}

fn won(branch: Branch, loser: Loser<&'static str>) -> S {
    let report = if branch == Branch::Local { "local" } else { "remote" };
    let winner = Winner { branch, report, is_cached: false, is_on_disk: true };
    Step::Finish(Outcome::Won { winner, loser, has_leftovers: false })
}

fn failure(branch: Branch, class: FailureClass, report: &'static str) -> SidedFailure<&'static str> {
    SidedFailure { branch, class, report }
}

fn failed(first: SidedFailure<&'static str>, second: Option<SidedFailure<&'static str>>) -> S {
    Step::Finish(Outcome::Failed { first, second, has_leftovers: false })
}

fn stopped(halt: Halt) -> S {
    Step::Finish(Outcome::Stopped { halt, has_leftovers: false })
}

fn plan(sides: Sides) -> Plan {
    Plan { sides, first: at(0), is_clean: true, compares: false }
}

/// Hands the events to a race and compares the steps of each.
#[track_caller]
fn check_plan(plan: Plan, course: &[(E, &[S])]) {
    let mut race = Race::new(plan);
    for (place, (event, expected)) in course.iter().enumerate() {
        assert_eq!(race.handle(event.clone()), *expected, "event {place}: {event:?}");
    }
}

#[track_caller]
fn check(course: &[(E, &[S])]) {
    check_plan(plan(Sides::Either), course);
}

#[test]
fn local_wins() {
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (local_ok(0), &[drop_remote(1)]),
        (closed(1), &[ended(Branch::Remote, Lost), ended(Branch::Local, Won), won(Branch::Local, Loser::Nothing)]),
        // Whatever comes after is nobody's.
        (closed(1), &[]),
        (local_ok(0), &[]),
        (START_REMOTE, &[]),
    ]);
}

#[test]
fn remote_wins() {
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (remote_ok(1), &[Step::Stage(at(2))]),
        (staged(2), &[kill(0)]),
        (local_stopped(0), &[ended(Branch::Local, Lost), Step::SetAside(at(3))]),
        (set_aside(3), &[publish(4, 2)]),
        (published(4), &[ended(Branch::Remote, Won), won(Branch::Remote, Loser::Nothing)]),
    ]);
}

#[test]
fn local_finishes_while_remote_downloads() {
    check(&[
        (START_REMOTE, &[Step::Execute(at(0))]),
        (remote_ok(0), &[Step::Stage(at(1))]),
        (START_LOCAL, &[Step::RunLocal(at(2))]),
        (local_ok(2), &[drop_remote(1)]),
        (
            Event::Staged(at(1), StagingEnd::Closed("closed")),
            &[
                Step::KeepStaged(at(1)),
                ended(Branch::Remote, Lost),
                ended(Branch::Local, Won),
                won(Branch::Local, Loser::Nothing),
            ],
        ),
    ]);
}

#[test]
fn local_that_is_ready_while_remote_has_the_claim_loses() {
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (remote_ok(1), &[Step::Stage(at(2))]),
        (staged(2), &[kill(0)]),
        (local_ok(0), &[ended(Branch::Local, Lost), Step::SetAside(at(3))]),
        (set_aside(3), &[publish(4, 2)]),
        (published(4), &[ended(Branch::Remote, Won), won(Branch::Remote, Loser::Nothing)]),
    ]);
}

#[test]
fn a_hit_needs_no_bytes_where_none_are_wanted() {
    let winner = Winner { branch: Branch::Remote, report: "hit", is_cached: true, is_on_disk: false };
    check(&[
        (START_LOOK_UP, &[Step::LookUp(at(0))]),
        (START_LOCAL, &[Step::RunLocal(at(1))]),
        (Event::LookedUp(at(0), Answer::Hit { report: "hit", to_stage: false }), &[kill(1)]),
        (local_stopped(1), &[ended(Branch::Local, Lost), Step::SetAside(at(2))]),
        (
            set_aside(2),
            &[
                ended(Branch::Remote, Won),
                Step::Finish(Outcome::Won { winner, loser: Loser::Nothing, has_leftovers: false }),
            ],
        ),
    ]);
}

#[test]
fn a_miss_asks_for_a_side_if_none_runs() {
    check(&[
        (START_LOOK_UP, &[Step::LookUp(at(0))]),
        (Event::LookedUp(at(0), Answer::Miss), &[Step::Need(Need::Either)]),
        (START_LOOK_UP, &[]),
    ]);
    check_plan(
        plan(Sides::Local),
        &[
            (START_LOOK_UP, &[Step::LookUp(at(0))]),
            (Event::LookedUp(at(0), Answer::Miss), &[Step::Need(Need::Local)]),
            (START_REMOTE, &[]),
            (START_LOCAL, &[Step::RunLocal(at(1))]),
        ],
    );
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_LOOK_UP, &[Step::LookUp(at(1))]),
        (Event::LookedUp(at(1), Answer::Miss), &[]),
    ]);
}

#[test]
fn nobody_waits_for_a_cache_once_local_is_done() {
    check(&[
        (START_LOOK_UP, &[Step::LookUp(at(0))]),
        (START_LOCAL, &[Step::RunLocal(at(1))]),
        (local_ok(1), &[Step::DropLookUp(at(0)), ended(Branch::Local, Won), won(Branch::Local, Loser::Nothing)]),
        (Event::LookedUp(at(0), Answer::Hit { report: "hit", to_stage: true }), &[]),
    ]);
}

#[test]
fn a_claim_goes_back_when_publishing_fails() {
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (remote_ok(1), &[Step::Stage(at(2))]),
        (staged(2), &[kill(0)]),
        (local_stopped(0), &[ended(Branch::Local, Lost), Step::SetAside(at(3))]),
        (set_aside(3), &[publish(4, 2)]),
        (
            Event::Published(at(4), Err("disk full")),
            &[Step::DiscardStaged(at(2)), ended(Branch::Remote, Failed), Step::Need(Need::Local)],
        ),
        (START_LOCAL, &[Step::RunLocal(at(5))]),
        // Late, and of another run.
        (local_ok(0), &[]),
        (
            local_ok(5),
            &[
                ended(Branch::Local, Won),
                won(Branch::Local, Loser::Failed(failure(Branch::Remote, FailureClass::Infrastructure, "disk full"))),
            ],
        ),
    ]);
}

#[test]
fn remote_only_is_tried_twice() {
    let no_space = || Event::Published(at(2), Err("no space"));
    let gone = failure(Branch::Remote, FailureClass::Infrastructure, "gone");
    check_plan(
        plan(Sides::Remote),
        &[
            (START_REMOTE, &[Step::Execute(at(0))]),
            (remote_ok(0), &[Step::Stage(at(1))]),
            (staged(1), &[publish(2, 1)]),
            (no_space(), &[Step::DiscardStaged(at(1)), ended(Branch::Remote, Failed), Step::Need(Need::Remote)]),
            (START_REMOTE, &[Step::Execute(at(3))]),
            (remote_ok(3), &[Step::Stage(at(4))]),
            // Half of the first may lie there.
            (staged(4), &[Step::SetAside(at(5))]),
            (set_aside(5), &[publish(6, 4)]),
            (no_space(), &[]),
            (
                Event::Published(at(6), Err("gone")),
                &[Step::DiscardStaged(at(4)), ended(Branch::Remote, Failed), Step::SetAside(at(7))],
            ),
            (set_aside(7), &[failed(gone, None)]),
        ],
    );
}

#[test]
fn a_download_that_fails_stops_nobody() {
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (remote_ok(1), &[Step::Stage(at(2))]),
        (
            Event::Staged(at(2), StagingEnd::Failed(FailureClass::Infrastructure, "lost blob")),
            &[Step::DiscardStaged(at(2)), ended(Branch::Remote, Failed)],
        ),
        (
            local_ok(0),
            &[
                ended(Branch::Local, Won),
                won(Branch::Local, Loser::Failed(failure(Branch::Remote, FailureClass::Infrastructure, "lost blob"))),
            ],
        ),
    ]);
}

#[test]
fn the_commands_own_failure_decides_on_either_side() {
    let of_local = failure(Branch::Local, FailureClass::Command, "local");
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (local_fails(0, FailureClass::Command), &[ended(Branch::Local, Failed), drop_remote(1)]),
        (closed(1), &[ended(Branch::Remote, Lost), failed(of_local, None)]),
    ]);
    let of_remote = failure(Branch::Remote, FailureClass::Command, "remote");
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (remote_fails(1, FailureClass::Command), &[ended(Branch::Remote, Failed), kill(0)]),
        (local_stopped(0), &[ended(Branch::Local, Lost), Step::SetAside(at(2))]),
        (set_aside(2), &[failed(of_remote, None)]),
    ]);
}

#[test]
fn a_sides_own_failure_lets_the_other_decide() {
    let doubtful = failure(Branch::Local, FailureClass::Doubtful, "local");
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (local_fails(0, FailureClass::Doubtful), &[ended(Branch::Local, Failed), Step::Need(Need::Remote)]),
        (START_LOCAL, &[]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (remote_ok(1), &[Step::Stage(at(2))]),
        (staged(2), &[Step::SetAside(at(3))]),
        (set_aside(3), &[publish(4, 2)]),
        (published(4), &[ended(Branch::Remote, Won), won(Branch::Remote, Loser::Failed(doubtful.clone()))]),
    ]);
    check_plan(
        plan(Sides::Local),
        &[
            (START_LOCAL, &[Step::RunLocal(at(0))]),
            (local_fails(0, FailureClass::Doubtful), &[ended(Branch::Local, Failed), failed(doubtful, None)]),
        ],
    );
}

#[test]
fn a_side_that_cannot_start_has_failed() {
    let nowhere = || Event::CannotStart(Branch::Remote, FailureClass::Infrastructure, "outage");
    let doubtful = failure(Branch::Local, FailureClass::Doubtful, "local");
    let outage = failure(Branch::Remote, FailureClass::Infrastructure, "outage");
    let steps = [ended(Branch::Local, Failed), Step::Need(Need::Remote)];
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (local_fails(0, FailureClass::Doubtful), &steps),
        (nowhere(), &[failed(doubtful.clone(), Some(outage.clone()))]),
    ]);
    check(&[
        (nowhere(), &[Step::Need(Need::Local)]),
        (nowhere(), &[]),
        (START_REMOTE, &[]),
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (local_fails(0, FailureClass::Doubtful), &[ended(Branch::Local, Failed), failed(doubtful, Some(outage))]),
    ]);
    check(&[(
        Event::CannotStart(Branch::Local, FailureClass::Inputs, "gone"),
        &[failed(failure(Branch::Local, FailureClass::Inputs, "gone"), None)],
    )]);
    check(&[
        (START_REMOTE, &[Step::Execute(at(0))]),
        (Event::CannotStart(Branch::Local, FailureClass::Infrastructure, "full"), &[]),
        (START_LOCAL, &[]),
    ]);
}

#[test]
fn both_fail_and_the_commands_own_failure_comes_first() {
    let classes = [FailureClass::Infrastructure, FailureClass::Doubtful];
    for (here, there) in classes.into_iter().flat_map(|here| classes.map(|there| (here, there))) {
        let of_local = failure(Branch::Local, here, "local");
        let of_remote = failure(Branch::Remote, there, "remote");
        let is_local_first = here >= there;
        let (first, second) = if is_local_first { (of_local, of_remote) } else { (of_remote, of_local) };
        let mut race = Race::new(plan(Sides::Either));
        let mut steps = Vec::new();
        for event in [START_LOCAL, START_REMOTE, local_fails(0, here), remote_fails(1, there), set_aside(2)] {
            steps = race.handle(event).into_iter().chain(steps).collect();
        }
        assert!(steps.contains(&failed(first, Some(second))), "{here:?} here, {there:?} there: {steps:?}");
    }
}

#[test]
fn lost_inputs_start_nobody_but_leave_who_runs() {
    let lost = failure(Branch::Remote, FailureClass::Inputs, "remote");
    check(&[
        (START_REMOTE, &[Step::Execute(at(0))]),
        (remote_fails(0, FailureClass::Inputs), &[ended(Branch::Remote, Failed), failed(lost.clone(), None)]),
    ]);
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (remote_fails(1, FailureClass::Inputs), &[ended(Branch::Remote, Failed)]),
        (local_ok(0), &[ended(Branch::Local, Won), won(Branch::Local, Loser::Failed(lost))]),
    ]);
}

#[test]
fn nothing_is_published_beside_a_survivor() {
    let survivor = failure(Branch::Local, FailureClass::Survivor, "alive");
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (remote_ok(1), &[Step::Stage(at(2))]),
        (staged(2), &[kill(0)]),
        (
            local(0, LocalEnd::Stuck("alive")),
            &[
                ended(Branch::Local, Failed),
                Step::KeepStaged(at(2)),
                ended(Branch::Remote, Lost),
                failed(survivor, None),
            ],
        ),
    ]);
}

#[test]
fn setting_aside_may_fail() {
    let winner = Winner { branch: Branch::Remote, report: "remote", is_cached: false, is_on_disk: true };
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (remote_ok(1), &[Step::Stage(at(2))]),
        (staged(2), &[kill(0)]),
        (local_stopped(0), &[ended(Branch::Local, Lost), Step::SetAside(at(3))]),
        (Event::SetAside { attempt: at(3), is_clean: false }, &[publish(4, 2)]),
        (
            published(4),
            &[
                ended(Branch::Remote, Won),
                Step::Finish(Outcome::Won { winner, loser: Loser::Nothing, has_leftovers: true }),
            ],
        ),
    ]);
}

#[test]
fn stops_escalate_and_what_finished_counts() {
    let stop = |reason| Step::StopLocal(at(0), reason);
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (Event::Halt(Halt::Interrupt), &[stop(StopReason::Interrupt), Step::DropRemote(at(1), StopReason::Interrupt)]),
        (Event::Halt(Halt::FailFast), &[]),
        (Event::Halt(Halt::Kill), &[stop(StopReason::Kill)]),
        (closed(1), &[ended(Branch::Remote, Stopped)]),
        (local_stopped(0), &[ended(Branch::Local, Stopped), Step::SetAside(at(2))]),
        (set_aside(2), &[stopped(Halt::Kill)]),
    ]);
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (Event::Halt(Halt::FailFast), &[stop(StopReason::Interrupt)]),
        (local_ok(0), &[ended(Branch::Local, Won), won(Branch::Local, Loser::Nothing)]),
    ]);
    check(&[(Event::Halt(Halt::Interrupt), &[stopped(Halt::Interrupt)])]);
}

#[test]
fn what_fails_by_itself_counts_after_a_stop() {
    let stop = Step::StopLocal(at(0), StopReason::Interrupt);
    let own = failure(Branch::Local, FailureClass::Command, "local");
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (Event::Halt(Halt::FailFast), std::slice::from_ref(&stop)),
        (local_fails(0, FailureClass::Command), &[ended(Branch::Local, Failed), failed(own, None)]),
    ]);
    // That may well be the stop's own doing.
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (Event::Halt(Halt::FailFast), &[stop]),
        (local_fails(0, FailureClass::Doubtful), &[ended(Branch::Local, Stopped), Step::SetAside(at(1))]),
        (set_aside(1), &[stopped(Halt::FailFast)]),
    ]);
}

#[test]
fn a_stop_nobody_asked_for_is_a_failure() {
    let gone = |branch, report| failure(branch, FailureClass::Infrastructure, report);
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (local_stopped(0), &[ended(Branch::Local, Failed), Step::Need(Need::Remote)]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        // Nothing of a run that came to nothing so is worth keeping.
        (closed(1), &[ended(Branch::Remote, Failed), Step::SetAside(at(2))]),
        (set_aside(2), &[failed(gone(Branch::Local, "stopped"), Some(gone(Branch::Remote, "closed")))]),
    ]);
    check(&[
        (START_REMOTE, &[Step::Execute(at(0))]),
        (remote_ok(0), &[Step::Stage(at(1))]),
        (
            Event::Staged(at(1), StagingEnd::Closed("closed")),
            &[Step::DiscardStaged(at(1)), ended(Branch::Remote, Failed), Step::Need(Need::Local)],
        ),
    ]);
}

#[test]
fn a_hit_that_cannot_be_brought_here_leaves_remote_to_run() {
    check(&[
        (START_LOOK_UP, &[Step::LookUp(at(0))]),
        (Event::LookedUp(at(0), Answer::Hit { report: "hit", to_stage: true }), &[Step::Stage(at(1))]),
        (
            Event::Staged(at(1), StagingEnd::Failed(FailureClass::Infrastructure, "lost blob")),
            &[Step::DiscardStaged(at(1)), ended(Branch::Remote, Failed), Step::Need(Need::Either)],
        ),
        (START_LOOK_UP, &[]),
        (START_REMOTE, &[Step::Execute(at(2))]),
    ]);
}

#[test]
fn a_claim_is_carried_through_an_interrupt() {
    check(&[
        (START_LOCAL, &[Step::RunLocal(at(0))]),
        (START_REMOTE, &[Step::Execute(at(1))]),
        (remote_ok(1), &[Step::Stage(at(2))]),
        (staged(2), &[kill(0)]),
        (Event::Halt(Halt::Interrupt), &[]),
        (local_stopped(0), &[ended(Branch::Local, Lost), Step::SetAside(at(3))]),
        (Event::Halt(Halt::Kill), &[]),
        (set_aside(3), &[publish(4, 2)]),
        (published(4), &[ended(Branch::Remote, Won), won(Branch::Remote, Loser::Nothing)]),
    ]);
}

#[test]
fn both_run_to_the_end_where_they_are_compared() {
    let compared = Plan { compares: true, ..plan(Sides::Either) };
    check_plan(
        compared,
        &[
            (START_REMOTE, &[Step::Execute(at(0))]),
            (remote_ok(0), &[Step::Need(Need::Local)]),
            (START_LOCAL, &[Step::RunLocal(at(1))]),
            (
                local_ok(1),
                &[
                    ended(Branch::Remote, Lost),
                    ended(Branch::Local, Won),
                    won(Branch::Local, Loser::Succeeded("remote")),
                ],
            ),
        ],
    );
    check_plan(
        compared,
        &[
            (START_LOCAL, &[Step::RunLocal(at(0))]),
            (local_ok(0), &[Step::Need(Need::Remote)]),
            (START_REMOTE, &[Step::Execute(at(1))]),
            (
                remote_ok(1),
                &[
                    ended(Branch::Remote, Lost),
                    ended(Branch::Local, Won),
                    won(Branch::Local, Loser::Succeeded("remote")),
                ],
            ),
        ],
    );
}

#[test]
fn what_an_earlier_build_left_is_moved_away() {
    check_plan(
        Plan { is_clean: false, ..plan(Sides::Either) },
        &[
            (START_REMOTE, &[Step::Execute(at(0))]),
            (remote_ok(0), &[Step::Stage(at(1))]),
            (staged(1), &[Step::SetAside(at(2))]),
            (set_aside(2), &[publish(3, 1)]),
        ],
    );
}

#[test]
fn statuses_have_classes() {
    use ExecutionStatus::{
        BadOutputs, Exited, Infrastructure, LostInputs, NotStarted, Signalled, Stopped as WasStopped, TimedOut,
    };
    let text = String::from;
    for (status, class) in [
        (Exited(0), None),
        (WasStopped(StopReason::LostRace), None),
        (Exited(1), Some(FailureClass::Command)),
        (Exited(2), Some(FailureClass::Command)),
        (Exited(-1), Some(FailureClass::Command)),
        (Exited(139), Some(FailureClass::Command)),
        (Exited(126), Some(FailureClass::Doubtful)),
        (Exited(127), Some(FailureClass::Doubtful)),
        (Exited(137), Some(FailureClass::Doubtful)),
        (Exited(143), Some(FailureClass::Doubtful)),
        (Signalled(11), Some(FailureClass::Doubtful)),
        (TimedOut, Some(FailureClass::Doubtful)),
        (NotStarted(text("cannot find `cc`")), Some(FailureClass::Doubtful)),
        (BadOutputs(Vec::new()), Some(FailureClass::Doubtful)),
        (Infrastructure(text("no connection")), Some(FailureClass::Infrastructure)),
        (LostInputs(Vec::new()), Some(FailureClass::Inputs)),
    ] {
        assert_eq!(FailureClass::of(&status), class, "{status:?}");
    }
}

#[test]
fn a_race_is_small() {
    assert!(size_of::<Race<Box<u64>>>() <= 192, "{}", size_of::<Race<Box<u64>>>());
}

fn any_event() -> impl Strategy<Value = Event<u8>> {
    use FailureClass::{Command, Doubtful, Infrastructure, Inputs};
    let number = || (0..12_u32).prop_map(Attempt);
    let class = || prop::sample::select(vec![Infrastructure, Inputs, Doubtful, Command]);
    let branch = prop::sample::select(vec![Branch::Local, Branch::Remote]);
    let local = prop_oneof![
        Just(LocalEnd::Succeeded(0)),
        class().prop_map(|class| LocalEnd::Failed(class, 1)),
        Just(LocalEnd::Stopped(2)),
        Just(LocalEnd::Stuck(3)),
    ];
    let answer =
        prop_oneof![any::<bool>().prop_map(|to_stage| Answer::Hit { report: 4, to_stage }), Just(Answer::Miss)];
    let remote = prop_oneof![
        any::<bool>().prop_map(|to_stage| RemoteEnd::Succeeded { report: 5, to_stage }),
        class().prop_map(|class| RemoteEnd::Failed(class, 6)),
        Just(RemoteEnd::Closed(7)),
    ];
    let staging = prop_oneof![
        Just(StagingEnd::Complete),
        class().prop_map(|class| StagingEnd::Failed(class, 8)),
        Just(StagingEnd::Closed(9)),
    ];
    prop_oneof![
        6 => prop::sample::select(vec![Work::Local, Work::LookUp, Work::Execute]).prop_map(Event::Start),
        1 => (branch, class()).prop_map(|(branch, class)| Event::CannotStart(branch, class, 10)),
        6 => (number(), local).prop_map(|(attempt, end)| Event::LocalEnded(attempt, end)),
        6 => (number(), answer).prop_map(|(attempt, answer)| Event::LookedUp(attempt, answer)),
        6 => (number(), remote).prop_map(|(attempt, end)| Event::RemoteEnded(attempt, end)),
        6 => (number(), staging).prop_map(|(attempt, end)| Event::Staged(attempt, end)),
        6 => (number(), any::<bool>()).prop_map(|(attempt, is_clean)| Event::SetAside { attempt, is_clean }),
        6 => (number(), any::<bool>()).prop_map(|(attempt, works)| Event::Published(attempt, works.then_some(()).ok_or(11))),
        1 => prop::sample::select(vec![Halt::FailFast, Halt::Interrupt, Halt::Kill]).prop_map(Event::Halt),
    ]
}

proptest! {
    /// Whatever comes in whatever order: one outcome at most, nothing after it, and never one that says "bug".
    #[test]
    fn nonsense_is_survived(
        sides in prop::sample::select(vec![Sides::Local, Sides::Remote, Sides::Either]),
        flags in any::<(bool, bool)>(),
        events in prop::collection::vec(any_event(), 0..120),
    ) {
        let mut race = Race::new(Plan { sides, first: at(0), is_clean: flags.0, compares: flags.1 });
        let mut is_over = false;
        for event in events {
            let steps = race.handle(event);
            prop_assert!(!is_over || steps.is_empty(), "after the outcome: {steps:?}");
            prop_assert!(!steps.iter().any(|step| matches!(step, Step::Finish(Outcome::Bug(_)))), "{steps:?}");
            is_over = is_over || matches!(steps.last(), Some(Step::Finish(_)));
            prop_assert_eq!(is_over, race.is_finished());
        }
    }
}
