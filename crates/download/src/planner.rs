//! Where bytes are, who wants them, and who waits for them.

use minibuild_core::{ActionId, ArtifactId, DownloadReason, FetchId, Fingerprint, Urgency};
use rustc_hash::FxHashMap;

/// Something that has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Step {
    /// Bring an output here.
    Fetch {
        /// Names the fetch.
        id: FetchId,
        /// What.
        artifact: ArtifactId,
        /// How soon.
        urgency: Urgency,
    },
    /// Bring files of a tree here; which, is the caller's to know.
    FetchPart {
        /// Names the fetch.
        id: FetchId,
        /// The tree.
        artifact: ArtifactId,
    },
    /// A fetch under way is needed sooner than was thought.
    Hurry {
        /// Which.
        id: FetchId,
        /// How soon.
        urgency: Urgency,
    },
}

/// A fetch that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What was to be brought.
    pub artifact: ArtifactId,
    /// Why.
    pub why: DownloadReason,
    /// Whether it brought single files of a tree.
    pub is_part: bool,
}

/// Where the bytes of one artifact are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Place {
    here: Option<Fingerprint>,
    is_there: bool,
    fetch: Option<FetchId>,
}

#[derive(Clone, Copy, Debug)]
struct Fetching {
    artifact: ArtifactId,
    why: DownloadReason,
    urgency: Urgency,
    extent: Extent,
}

/// How much of an artifact a fetch brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    /// Single files of a tree; the whole is fetched next if there is a reason.
    Part {
        then_whole: Option<DownloadReason>,
    },
}

/// The planner of one build.
///
/// 1. Of each artifact one fetch is under way at most, and none of what is here.
/// 2. What is not believed to be in the store is not fetched.
/// 3. Once stopped, nothing further is fetched but what failed actions left.
/// 4. Whoever waits is woken once, when none of the artifacts it waits for is left.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    places: Vec<Place>,
    wanted: Vec<Option<DownloadReason>>,
    fetching: FxHashMap<FetchId, Fetching>,
    next: u64,
    /// How many artifacts each consumer waits for.
    awaiting: FxHashMap<ActionId, usize>,
    waiters: FxHashMap<ArtifactId, Vec<ActionId>>,
    /// What is needed whole, of which a part has just been fetched.
    unfinished: Vec<(ArtifactId, DownloadReason)>,
    is_stopped: bool,
}

impl Planner {
    /// A planner for so many artifacts, of which nothing is known.
    pub fn new(artifacts: usize) -> Self {
        Self { places: vec![Place::default(); artifacts], wanted: vec![None; artifacts], ..Self::default() }
    }

    /// The bytes of `artifact` are wanted here, whoever makes them and whenever.
    pub fn want(&mut self, artifact: ArtifactId, why: DownloadReason) {
        self.wanted[artifact.index()] = Some(why);
    }

    /// Why the bytes are wanted here, if they are.
    pub fn wanted(&self, artifact: ArtifactId) -> Option<DownloadReason> {
        self.wanted[artifact.index()]
    }

    /// Under which fingerprint the bytes are here.
    pub fn here(&self, artifact: ArtifactId) -> Option<Fingerprint> {
        self.places[artifact.index()].here
    }

    /// Whether the store is believed to have the bytes.
    pub fn is_there(&self, artifact: ArtifactId) -> bool {
        self.places[artifact.index()].is_there
    }

    /// Whether the bytes are on their way.
    pub fn is_on_its_way(&self, artifact: ArtifactId) -> bool {
        self.places[artifact.index()].fetch.is_some()
    }

    /// Whether the bytes are wanted, and neither here nor believed to be anywhere.
    pub fn is_wanted_in_vain(&self, artifact: ArtifactId) -> bool {
        self.is_wanted_and_absent(artifact) && !self.is_there(artifact)
    }

    /// Whether the bytes are wanted and not here.
    pub fn is_wanted_and_absent(&self, artifact: ArtifactId) -> bool {
        self.wanted(artifact).is_some() && self.here(artifact).is_none()
    }

    /// Where the bytes of what the artifact is now are.
    pub fn set_place(&mut self, artifact: ArtifactId, here: Option<Fingerprint>, is_there: bool) {
        let place = &mut self.places[artifact.index()];
        (place.here, place.is_there) = (here, is_there);
    }

    /// Whether the bytes are here.
    pub fn set_here(&mut self, artifact: ArtifactId, here: Option<Fingerprint>) {
        self.places[artifact.index()].here = here;
    }

    /// Whether the store is believed to have the bytes.
    pub fn set_there(&mut self, artifact: ArtifactId, is_there: bool) {
        self.places[artifact.index()].is_there = is_there;
    }

    /// An action is complete – run or cached, in this build or an earlier one: what is wanted of its outputs is fetched.
    pub fn completed(&mut self, outputs: &[ArtifactId]) -> Vec<Step> {
        outputs.iter().filter_map(|&output| self.need(output, self.wanted(output)?)).collect()
    }

    /// The bytes are needed now. Nothing is to be done where they are here, on their way, or nowhere.
    pub fn need(&mut self, artifact: ArtifactId, why: DownloadReason) -> Option<Step> {
        if self.is_stopped { None } else { self.begin(artifact, why) }
    }

    /// What a failed action left is needed to be looked at, also after a stop, for which the failure may be the reason.
    pub fn need_remains(&mut self, artifact: ArtifactId) -> Option<Step> {
        self.begin(artifact, DownloadReason::Failed)
    }

    fn begin(&mut self, artifact: ArtifactId, why: DownloadReason) -> Option<Step> {
        let place = self.places[artifact.index()];
        let urgency = urgency_of(why);
        if place.here.is_some() {
            return None;
        }
        if let Some(id) = place.fetch {
            let fetching = self.fetching.get_mut(&id)?;
            if let Extent::Part { then_whole } = &mut fetching.extent {
                let is_sooner = |known: &DownloadReason| urgency_of(*known) < urgency;
                if then_whole.as_ref().is_none_or(is_sooner) {
                    *then_whole = Some(why);
                }
            }
            if fetching.urgency >= urgency {
                return None;
            }
            fetching.urgency = urgency;
            return Some(Step::Hurry { id, urgency });
        }
        if !place.is_there {
            return None;
        }
        let id = self.insert(Fetching { artifact, why, urgency, extent: Extent::Whole });
        Some(Step::Fetch { id, artifact, urgency })
    }

    /// Single files of a tree are wanted, which is in the store and not here. Nothing is to be done where the whole is on
    /// its way.
    pub fn need_part(&mut self, artifact: ArtifactId) -> Option<Step> {
        let place = self.places[artifact.index()];
        if self.is_stopped || place.here.is_some() || place.fetch.is_some() || !place.is_there {
            return None;
        }
        let why = DownloadReason::Regex;
        let extent = Extent::Part { then_whole: None };
        let id = self.insert(Fetching { artifact, why, urgency: urgency_of(why), extent });
        Some(Step::FetchPart { id, artifact })
    }

    fn insert(&mut self, fetching: Fetching) -> FetchId {
        let id = FetchId(self.next);
        self.next += 1;
        self.places[fetching.artifact.index()].fetch = Some(id);
        self.fetching.insert(id, fetching);
        id
    }

    /// A fetch is over, however it ended; `None` for one that is not known. What is still needed of the same artifact is
    /// to be asked for by [`Self::go_on`], once it is known what came of this one.
    pub fn ended(&mut self, fetch: FetchId) -> Option<Ended> {
        let Fetching { artifact, why, extent, .. } = self.fetching.remove(&fetch)?;
        self.places[artifact.index()].fetch = None;
        if let Extent::Part { then_whole: Some(why) } = extent {
            self.unfinished.push((artifact, why));
        }
        Some(Ended { artifact, why, is_part: extent != Extent::Whole })
    }

    /// Fetches what was needed while only a part of it was on its way.
    pub fn go_on(&mut self) -> Vec<Step> {
        let unfinished = std::mem::take(&mut self.unfinished);
        unfinished.into_iter().filter_map(|(artifact, why)| self.need(artifact, why)).collect()
    }

    /// Fetches under way.
    pub fn under_way(&self) -> usize {
        self.fetching.len()
    }

    /// Nothing further is fetched.
    pub fn stop(&mut self) {
        self.is_stopped = true;
    }

    /// `consumer` is going to wait for so many artifacts, each to be named by [`Self::wait_for`].
    pub fn begin_waiting(&mut self, consumer: ActionId, count: usize) {
        self.awaiting.insert(consumer, count);
    }

    /// `consumer` waits for `artifact`.
    pub fn wait_for(&mut self, consumer: ActionId, artifact: ArtifactId) {
        self.waiters.entry(artifact).or_default().push(consumer);
    }

    /// `consumer` waits no longer.
    pub fn end_waiting(&mut self, consumer: ActionId) {
        self.awaiting.remove(&consumer);
    }

    /// Who waits for an artifact.
    pub fn waiters(&self, artifact: ArtifactId) -> &[ActionId] {
        self.waiters.get(&artifact).map(Vec::as_slice).unwrap_or_default()
    }

    /// The artifact is there, or known anew: gives the consumers that wait for no other.
    pub fn wake(&mut self, artifact: ArtifactId) -> Vec<ActionId> {
        let mut woken = Vec::new();
        for consumer in self.waiters.remove(&artifact).unwrap_or_default() {
            let Some(count) = self.awaiting.get_mut(&consumer) else { continue };
            *count -= 1;
            if *count == 0 {
                self.awaiting.remove(&consumer);
                woken.push(consumer);
            }
        }
        woken
    }

    /// A text that is equal where the planner goes on equally: for explorers of states.
    pub fn picture(&self) -> String {
        let mut awaiting: Vec<_> = self.awaiting.iter().collect();
        awaiting.sort_unstable();
        let places: Vec<_> =
            self.places.iter().map(|p| (p.here.is_some(), p.is_there, self.urgency_of_fetch(p.fetch))).collect();
        format!("{awaiting:?} {places:?} {}", self.is_stopped)
    }

    fn urgency_of_fetch(&self, fetch: Option<FetchId>) -> Option<Urgency> {
        Some(self.fetching.get(&fetch?)?.urgency)
    }
}

fn urgency_of(why: DownloadReason) -> Urgency {
    match why {
        DownloadReason::Input => Urgency::Input,
        DownloadReason::Toplevel | DownloadReason::Run | DownloadReason::Fetch => Urgency::Toplevel,
        _ => Urgency::Background,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn a() -> ArtifactId {
        ArtifactId::new(0)
    }

    fn b() -> ArtifactId {
        ArtifactId::new(1)
    }

    fn there(artifacts: &[ArtifactId]) -> Planner {
        let mut planner = Planner::new(4);
        for &artifact in artifacts {
            planner.set_there(artifact, true);
        }
        planner
    }

    #[test]
    fn completion_fetches_what_is_wanted_and_absent_once() {
        let mut planner = there(&[a(), b()]);
        planner.want(a(), DownloadReason::Toplevel);
        let fetch = Step::Fetch { id: FetchId(0), artifact: a(), urgency: Urgency::Toplevel };
        assert_eq!(planner.completed(&[a(), b()]), [fetch]);
        assert_eq!(planner.completed(&[a(), b()]), []);
        assert!(planner.is_on_its_way(a()) && planner.is_wanted_and_absent(a()) && !planner.is_wanted_in_vain(a()));
        let ended = Ended { artifact: a(), why: DownloadReason::Toplevel, is_part: false };
        assert_eq!(planner.ended(FetchId(0)), Some(ended));
        assert_eq!(planner.ended(FetchId(0)), None);
        planner.set_here(a(), Some(Fingerprint::default()));
        assert_eq!(planner.completed(&[a(), b()]), []);
    }

    #[test]
    fn an_action_that_waits_makes_a_fetch_hurry_once() {
        let mut planner = there(&[a()]);
        assert!(planner.need(a(), DownloadReason::All).is_some());
        let hurry = Step::Hurry { id: FetchId(0), urgency: Urgency::Input };
        assert_eq!(planner.need(a(), DownloadReason::Input), Some(hurry));
        assert_eq!(planner.need(a(), DownloadReason::Input), None);
        assert_eq!(planner.need(a(), DownloadReason::Toplevel), None);
    }

    #[test]
    fn nothing_is_fetched_from_nowhere_or_after_a_stop() {
        let mut planner = there(&[a()]);
        planner.want(b(), DownloadReason::All);
        assert_eq!(planner.completed(&[b()]), []);
        assert!(planner.is_wanted_in_vain(b()));
        planner.stop();
        assert_eq!(planner.need(a(), DownloadReason::Input), None);
    }

    #[test]
    fn the_whole_follows_a_part_where_somebody_needs_it() {
        let mut planner = there(&[a(), b()]);
        assert_eq!(planner.need_part(a()), Some(Step::FetchPart { id: FetchId(0), artifact: a() }));
        assert_eq!(planner.need_part(a()), None);
        let hurry = Step::Hurry { id: FetchId(0), urgency: Urgency::Input };
        assert_eq!(planner.need(a(), DownloadReason::Input), Some(hurry));
        assert_eq!(planner.go_on(), []);
        let ended = Ended { artifact: a(), why: DownloadReason::Regex, is_part: true };
        assert_eq!(planner.ended(FetchId(0)), Some(ended));
        assert_eq!(planner.go_on(), [Step::Fetch { id: FetchId(1), artifact: a(), urgency: Urgency::Input }]);
        assert_eq!(planner.need_part(a()), None, "the whole is on its way");
        assert!(planner.need_part(b()).is_some());
        planner.ended(FetchId(2));
        assert_eq!(planner.go_on(), [], "nobody needs the whole");
        planner.set_here(b(), Some(Fingerprint::default()));
        assert_eq!(planner.need_part(b()), None);
    }

    #[test]
    fn who_waits_is_woken_by_the_last_it_waits_for() {
        let (mut planner, consumer, other) = (there(&[]), ActionId::new(7), ActionId::new(8));
        planner.begin_waiting(consumer, 2);
        planner.begin_waiting(other, 1);
        for (who, what) in [(consumer, a()), (consumer, b()), (other, a())] {
            planner.wait_for(who, what);
        }
        assert_eq!(planner.wake(a()), [other]);
        assert_eq!(planner.wake(a()), []);
        assert_eq!(planner.wake(b()), [consumer]);
        planner.begin_waiting(consumer, 1);
        planner.wait_for(consumer, a());
        planner.end_waiting(consumer);
        assert_eq!(planner.wake(a()), []);
    }

    /// What may happen to a planner in any order.
    #[derive(Clone, Debug)]
    enum Op {
        Want(usize),
        Place(usize, bool, bool),
        Completed(usize),
        Need(usize),
        NeedPart(usize),
        End(u64, bool),
        Stop,
    }

    fn op() -> impl Strategy<Value = Op> {
        let artifact = 0..4usize;
        prop_oneof![
            4 => artifact.clone().prop_map(Op::Want),
            6 => (artifact.clone(), any::<bool>(), any::<bool>()).prop_map(|(a, here, there)| Op::Place(a, here, there)),
            6 => artifact.clone().prop_map(Op::Completed),
            4 => artifact.clone().prop_map(Op::Need),
            3 => artifact.prop_map(Op::NeedPart),
            6 => (0..12u64, any::<bool>()).prop_map(|(id, arrives)| Op::End(id, arrives)),
            1 => Just(Op::Stop),
        ]
    }

    proptest! {
        /// Against a model that keeps nothing but who is where.
        #[test]
        fn any_order_keeps_the_promises(ops in proptest::collection::vec(op(), 0..80)) {
            let mut planner = Planner::new(4);
            let mut open: Vec<(FetchId, ArtifactId)> = Vec::new();
            let mut stopped = false;
            for op in ops {
                let steps = match op {
                    Op::Want(a) => { planner.want(ArtifactId::new(a), DownloadReason::All); Vec::new() }
                    Op::Place(a, here, there) => {
                        planner.set_place(ArtifactId::new(a), here.then(Fingerprint::default), there);
                        Vec::new()
                    }
                    Op::Completed(a) => planner.completed(&[ArtifactId::new(a)]),
                    Op::Need(a) => planner.need(ArtifactId::new(a), DownloadReason::Input).into_iter().collect(),
                    Op::End(id, arrives) => {
                        let ended = planner.ended(FetchId(id));
                        let known = open.iter().position(|(open, _)| open.0 == id);
                        prop_assert_eq!(ended.map(|e| e.artifact), known.map(|at| open.remove(at).1));
                        if let (Some(ended), true) = (ended, arrives && ended.is_some_and(|ended| !ended.is_part)) {
                            planner.set_here(ended.artifact, Some(Fingerprint::default()));
                        }
                        planner.go_on()
                    }
                    Op::NeedPart(a) => planner.need_part(ArtifactId::new(a)).into_iter().collect(),
                    Op::Stop => { stopped = true; planner.stop(); Vec::new() }
                };
                for step in steps {
                    prop_assert!(!stopped);
                    match step {
                        Step::Fetch { id, artifact, .. } | Step::FetchPart { id, artifact } => {
                            prop_assert!(open.iter().all(|(i, a)| *i != id && *a != artifact));
                            prop_assert!(planner.here(artifact).is_none() && planner.is_there(artifact));
                            open.push((id, artifact));
                        }
                        Step::Hurry { id, .. } => prop_assert!(open.iter().any(|(i, _)| *i == id)),
                    }
                }
                prop_assert_eq!(planner.under_way(), open.len());
            }
        }
    }
}
