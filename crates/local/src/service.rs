//! The thread that serves the helpers: makes runs ready, keeps queues filled, and looks at what commands made.
//!
//! While helpers have enough to do it sleeps until one of them rings the bell, and then sees to all that ended meanwhile at once:
//! each time it, and with it who takes the reports, wakes up costs more than most of what there is to be done for one run. What
//! takes long is left to a crew of threads. The deciding is the desk's; this does not know what commands are for.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use minibuild_core::{ExecutionReport, ExecutionStatus, ExecutorEvent, RunId, StopReason};
use minibuild_disk::DiskError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::bell::Bell;
use crate::crew::Crew;
use crate::desk::{Desk, Lines};
use crate::helper::{Helper, HelperSpec, Line, RESUME_EVERY};
use crate::jobserver::Jobserver;
use crate::protocol::{End, FrameReader, FromSlot, Outcome, ToSlot};
use crate::work::{Place, Prepared, Work};

/// Takes the events of all runs; called from the executor's threads.
pub type EventSink = Arc<dyn Fn(ExecutorEvent) + Send + Sync>;

/// What the threads of an executor share.
pub(crate) struct Common {
    pub(crate) place: Place,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<CString>,
    pub(crate) lock: Option<OwnedFd>,
    pub(crate) sink: EventSink,
    pub(crate) jobserver: Option<Arc<Jobserver>>,
    /// Wakes the thread that serves.
    bell: Bell,
    shared: Mutex<Shared>,
    /// Nanoseconds that looking at what a command made takes, as a mean of late.
    usual_finish: AtomicU64,
}

/// What is changed by the thread that serves and by whoever starts and stops runs.
pub(crate) struct Shared {
    pub(crate) desk: Desk<Work>,
    pub(crate) wires: Wires,
    /// The thread that serves waits for the bell.
    is_asleep: bool,
    /// Something was changed that it should see to.
    is_called: bool,
    is_ending: bool,
}

/// The ways to the helpers, and the tokens they work with.
pub(crate) struct Wires {
    lines: Vec<Option<Arc<Line>>>,
    /// Of those that work: one may do with that which every participant of a jobserver has.
    tokens: Vec<Option<Option<u8>>>,
    may_lack_tokens: bool,
    jobserver: Option<Arc<Jobserver>>,
    sink: EventSink,
}

impl Lines<Work> for Wires {
    fn push(&mut self, seat: usize, _seq: u64, work: &Work, rings: bool) -> bool {
        matches!((&self.lines[seat], &work.parcel), (Some(line), Some(parcel)) if line.lay(parcel, rings))
    }

    fn drain(&mut self, seat: usize) -> Vec<u64> {
        self.lines[seat].as_ref().map(|line| line.take_back()).unwrap_or_default()
    }

    fn stop(&mut self, seat: usize, seq: u64, reason: StopReason) {
        if let Some(line) = &self.lines[seat] {
            line.tell(&ToSlot::Stop { seq, reason });
        }
    }

    fn go_on(&mut self, seat: usize) {
        if let Some(line) = &self.lines[seat] {
            line.tell(&ToSlot::GoOn);
        }
    }

    fn begins(&mut self, run: RunId) {
        (self.sink)(ExecutorEvent::Started(run));
    }

    fn take_token(&mut self, seat: usize) -> bool {
        let token = match &self.jobserver {
            Some(jobserver) if self.tokens.contains(&Some(None)) => jobserver.take().map(Some),
            _ => Some(None),
        };
        self.tokens[seat] = token;
        token.is_some()
    }

    fn give_back(&mut self, seat: usize, kept_some: bool) {
        let Some(jobserver) = &self.jobserver else { return };
        if let Some(Some(token)) = self.tokens[seat].take() {
            jobserver.give_back(token);
        }
        self.may_lack_tokens |= kept_some;
        if self.tokens.iter().all(Option::is_none) && std::mem::take(&mut self.may_lack_tokens) {
            jobserver.refill();
        }
    }
}

impl Common {
    /// For so many helpers.
    ///
    /// # Errors
    /// Where there is no descriptor to be had.
    pub(crate) fn new(
        place: Place,
        (program, args): (PathBuf, Vec<CString>),
        lock: Option<OwnedFd>,
        jobserver: Option<Jobserver>,
        seats: usize,
        sink: EventSink,
    ) -> io::Result<Self> {
        let jobserver = jobserver.map(Arc::new);
        let seats = seats.max(1);
        let wires = Wires {
            lines: std::iter::repeat_with(|| None).take(seats).collect(),
            tokens: vec![None; seats],
            may_lack_tokens: false,
            jobserver: jobserver.clone(),
            sink: Arc::clone(&sink),
        };
        let shared = Shared {
            desk: Desk::new(seats, queue_length()),
            wires,
            is_asleep: false,
            is_called: false,
            is_ending: false,
        };
        Ok(Self {
            place,
            program,
            args,
            lock,
            sink,
            jobserver,
            bell: Bell::new()?,
            shared: Mutex::new(shared),
            usual_finish: AtomicU64::new(0),
        })
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the thread that serves look at what was changed, and wakes it if need be.
    pub(crate) fn call(&self, shared: &mut Shared) {
        shared.is_called = true;
        if std::mem::take(&mut shared.is_asleep) {
            self.bell.ring();
        }
    }

    /// Nothing is asked for any more: the thread ends when all is over.
    pub(crate) fn end(&self) {
        let mut shared = self.shared();
        shared.is_ending = true;
        self.call(&mut shared);
    }

    fn tell(&self, seq: u64, report: Box<ExecutionReport>) {
        self.shared().desk.forget(seq);
        (self.sink)(ExecutorEvent::Finished(report));
    }

    fn stop_asked(&self, seq: u64) -> Option<StopReason> {
        self.shared().desk.stop_asked(seq)
    }

    /// Whether what a run needs beside its command should not be done by the thread that serves.
    fn is_slow(&self) -> bool {
        Duration::from_nanos(self.usual_finish.load(Ordering::Relaxed)) > SLOW
    }

    fn took(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let usual = self.usual_finish.load(Ordering::Relaxed);
        self.usual_finish.store(usual - usual / 8 + time / 8, Ordering::Relaxed);
    }

    /// Makes a run ready; tells its end where it will not come to its command.
    fn prepare(&self, seq: u64, work: Work) {
        let prepared = match self.stop_asked(seq) {
            Some(_) => None,
            None => Some(self.place.prepare(seq, &work.request)),
        };
        match prepared {
            Some(Prepared::Over(report)) => self.tell(seq, report),
            Some(Prepared::Ready(parcel)) => self.is_ready(seq, Work { parcel: Some(parcel), ..work }),
            None => self.is_ready(seq, work),
        }
    }

    fn is_ready(&self, seq: u64, work: Work) {
        let stopped = self.shared().desk.prepared(seq, work);
        if let Some((reason, work)) = stopped {
            self.tell(seq, self.place.report(&work.request, ExecutionStatus::Stopped(reason)));
        }
    }

    fn finish(&self, ended: Ended) -> (u64, Box<ExecutionReport>) {
        let started = Instant::now();
        let Ended { seat, seq, work, outcome } = ended;
        let report = self.place.finish(seat, seq, &work.request, outcome, &|| self.stop_asked(seq));
        self.took(started.elapsed());
        (seq, Box::new(report))
    }
}

/// Where a run takes longer than this beside its command, the disk is to blame, and runs need not wait for each other.
const SLOW: Duration = Duration::from_millis(1);
/// So long at most an end is not taken note of while helpers have enough to do.
const NAP: Duration = Duration::from_millis(40);
/// So many runs are made ready before it is looked at what ended meanwhile.
const AT_ONCE: usize = 16;

/// What lies in a queue at most. The kernel may allow less.
const LONGEST_QUEUE: usize = 16;

/// How many messages a socket takes before somebody reads them.
fn queue_length() -> usize {
    /// The kernel's own default.
    const USUAL: usize = 10;
    let setting = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").ok();
    setting.and_then(|text| text.trim().parse().ok()).unwrap_or(USUAL).clamp(1, LONGEST_QUEUE)
}

/// A command that is over.
struct Ended {
    seat: usize,
    seq: u64,
    work: Work,
    outcome: Outcome,
}

struct Seated {
    helper: Helper,
    messages: FrameReader,
}

/// The thread's own.
pub(crate) struct Service {
    common: Arc<Common>,
    seats: Vec<Option<Seated>>,
    crew: Crew,
    /// The last nap ended by itself.
    has_timed_out: bool,
    /// And nothing had ended meanwhile: commands take longer than it was thought.
    slept_in_vain: bool,
}

impl Service {
    pub(crate) fn new(common: Arc<Common>) -> Self {
        let seats: Vec<Option<Seated>> =
            std::iter::repeat_with(|| None).take(common.shared().wires.lines.len()).collect();
        let crew = Crew::new(seats.len());
        Self { common, seats, crew, has_timed_out: false, slept_in_vain: false }
    }

    /// Until the end of the executor.
    pub(crate) fn serve(mut self) {
        loop {
            let ended = self.listen();
            self.slept_in_vain = self.has_timed_out && ended.is_empty();
            self.give();
            self.finish(ended);
            self.prepare();
            if !self.wait() {
                break;
            }
        }
        let helpers: Vec<Helper> = self.seats.iter_mut().filter_map(|seat| Some(seat.take()?.helper)).collect();
        // All at once, then each is waited for.
        helpers.iter().for_each(|helper| helper.line().hang_up());
        helpers.into_iter().for_each(Helper::end);
    }

    /// Takes what the helpers have told.
    fn listen(&mut self) -> Vec<Ended> {
        let mut ended = Vec::new();
        for at in 0..self.seats.len() {
            while let Some(seat) = &mut self.seats[at] {
                let line = Arc::clone(seat.helper.line());
                match seat.messages.read(&mut line.socket()) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Ok(Some(FromSlot::Notice { seq, text })) => {
                        let run = self.common.shared().desk.run_of(seq);
                        run.into_iter().for_each(|run| (self.common.sink)(ExecutorEvent::Notice(run, text.clone())));
                    }
                    Ok(Some(FromSlot::Ended { seq, outcome })) => match self.has_ended(at, seq, &outcome) {
                        Some(work) => ended.push(Ended { seat: at, seq, work, outcome }),
                        None => self.lose(at),
                    },
                    Ok(None) | Err(_) => self.lose(at),
                }
            }
        }
        ended
    }

    fn has_ended(&mut self, at: usize, seq: u64, outcome: &Outcome) -> Option<Work> {
        let mut shared = self.common.shared();
        let Shared { desk, wires, .. } = &mut *shared;
        let work = desk.ended(at, seq, outcome.end == End::Exited(0), wires)?;
        if matches!(outcome.end, End::Stuck(_)) {
            desk.lost(at, wires);
            desk.set_free(at);
            wires.lines[at] = None;
            self.seats[at].take().into_iter().for_each(|seat| seat.helper.retire());
        }
        Some(work)
    }

    /// The helper is dead, or cannot be trusted. What it left is killed, which may take a while.
    fn lose(&mut self, at: usize) {
        let Some(seat) = self.seats[at].take() else { return };
        let mut shared = self.common.shared();
        let Shared { desk, wires, .. } = &mut *shared;
        let lost = desk.lost(at, wires);
        wires.lines[at] = None;
        drop(shared);
        let common = Arc::clone(&self.common);
        self.crew.hand(Box::new(move || {
            let alive = seat.helper.bury();
            for (seq, work) in lost {
                let status = match common.stop_asked(seq) {
                    _ if !alive.is_empty() => ExecutionStatus::Stuck(alive.join(", ")),
                    Some(reason) => ExecutionStatus::Stopped(reason),
                    None => ExecutionStatus::Infrastructure(
                        "the helper process that ran the command died (killed from outside, or out of memory?); \
                         all processes of the command were killed"
                            .into(),
                    ),
                };
                common.tell(seq, common.place.report(&work.request, status));
            }
            let mut shared = common.shared();
            shared.desk.set_free(at);
            common.call(&mut shared);
        }));
    }

    /// Fills the queues; starts helpers as they are needed.
    fn give(&mut self) {
        loop {
            let wanted = {
                let mut shared = self.common.shared();
                let Shared { desk, wires, .. } = &mut *shared;
                desk.give(wires);
                desk.seat_to_bring_up()
            };
            let Some(at) = wanted else { return };
            match self.bring_up(at) {
                Ok(seated) => {
                    let mut shared = self.common.shared();
                    shared.wires.lines[at] = Some(Arc::clone(seated.helper.line()));
                    shared.desk.came_up(at);
                    drop(shared);
                    self.seats[at] = Some(seated);
                }
                Err(text) => {
                    let failed = self.common.shared().desk.cannot_bring_up();
                    let Some((seq, work)) = failed else { return };
                    let report = self.common.place.report(&work.request, ExecutionStatus::Infrastructure(text));
                    self.common.tell(seq, report);
                }
            }
        }
    }

    fn bring_up(&self, at: usize) -> Result<Seated, String> {
        let Common { place, program, args, lock, jobserver, bell, .. } = &*self.common;
        let dir = Place::dir(at);
        // What an earlier helper left there is not this one's, and may still be written to.
        let made = place.tree.remove(&dir).and_then(|()| place.tree.make_dir(&dir));
        made.map_err(|error: DiskError| error.render())?;
        let helper = Helper::start(&HelperSpec {
            program,
            args,
            root: place.tree.workspace(),
            slot_dir: &place.tree.workspace().join(dir.as_path()),
            with_tmp: true,
            lock: lock.as_ref().map(AsFd::as_fd),
            jobserver: jobserver.as_deref(),
            bell: bell.as_fd(),
        });
        let started = helper.and_then(|helper| {
            helper.line().socket().set_nonblocking(true)?;
            Ok(Seated { helper, messages: FrameReader::default() })
        });
        started.map_err(|error| format!("cannot start the helper process `{}`: {error}", program.display()))
    }

    /// Sees to what commands made that are over. Reports go out together.
    fn finish(&self, ended: Vec<Ended>) {
        let mut reports = Vec::with_capacity(ended.len());
        for one in ended {
            if self.common.is_slow() || self.common.place.is_long(&one.work.request, &one.outcome) {
                let common = Arc::clone(&self.common);
                self.crew.hand(Box::new(move || {
                    let (seq, report) = common.finish(one);
                    common.tell(seq, report);
                }));
            } else {
                reports.push(self.common.finish(one));
            }
        }
        for (seq, report) in reports {
            self.common.tell(seq, report);
        }
    }

    /// Makes ready what was asked for.
    fn prepare(&mut self) {
        for _ in 0..AT_ONCE {
            let Some((seq, work)) = self.common.shared().desk.next_to_prepare() else { break };
            if self.common.is_slow() {
                let common = Arc::clone(&self.common);
                self.crew.hand(Box::new(move || {
                    common.prepare(seq, work);
                    let mut shared = common.shared();
                    common.call(&mut shared);
                }));
                continue;
            }
            self.common.prepare(seq, work);
            let has_idle = self.common.shared().desk.has_idle();
            if has_idle {
                self.give();
            }
        }
        self.give();
    }

    /// Sleeps until there is something to do; false where that is over.
    fn wait(&mut self) -> bool {
        let common = Arc::clone(&self.common);
        let (naps, lacks_tokens, has_work) = loop {
            let mut shared = common.shared();
            if shared.is_ending && shared.desk.is_empty() {
                return false;
            }
            if shared.desk.has_asked() {
                return true;
            }
            if !std::mem::take(&mut shared.is_called) {
                shared.is_asleep = true;
                let naps = shared.desk.may_nap() && !self.slept_in_vain;
                break (naps, shared.desk.lacks_tokens(), !shared.desk.is_empty());
            }
            // Somebody made room, or put something back.
            drop(shared);
            self.give();
        };
        let lines: Vec<Arc<Line>> = match naps {
            true => Vec::new(),
            false => self.seats.iter().flatten().map(|seat| Arc::clone(seat.helper.line())).collect(),
        };
        let for_news = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![for_news(common.bell.as_fd())];
        fds.extend(lines.iter().map(|line| for_news(line.socket().as_fd())));
        if let Some(jobserver) = common.jobserver.as_ref().filter(|_| lacks_tokens) {
            fds.push(for_news(jobserver.readiness()));
        }
        let timeout = match naps {
            true => PollTimeout::try_from(NAP).unwrap_or(PollTimeout::ZERO),
            false if has_work => PollTimeout::from(RESUME_EVERY),
            false => PollTimeout::NONE,
        };
        // A failure is an interruption, or something that the next look finds out.
        let count = poll(&mut fds, timeout).unwrap_or(1);
        if count == 0 {
            lines.iter().for_each(|line| line.resume());
        }
        self.has_timed_out = naps && count == 0;
        common.shared().is_asleep = false;
        if fds[0].any().unwrap_or(true) {
            common.bell.silence();
        }
        true
    }
}
