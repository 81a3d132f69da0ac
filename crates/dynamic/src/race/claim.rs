//! The right to be the result of an action.
//!
//! Whoever holds the [`Claim`] is the action's result, or nobody is. There is one arbiter in a race, it grants one claim
//! at a time, and a claim is used up by finishing or given back; it cannot be copied apart from its race.

use minibuild_core::Branch;

/// Grants the claim of one action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Arbiter {
    holder: Option<Branch>,
    returned: u8,
}

/// The right to publish; made by [`Arbiter::grant`] only.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Claim(Branch);

impl Arbiter {
    /// The claim, if nobody has it.
    pub(super) fn grant(&mut self, branch: Branch) -> Option<Claim> {
        match self.holder {
            Some(_) => None,
            None => {
                self.holder = Some(branch);
                Some(Claim(branch))
            }
        }
    }

    /// Takes a claim back that came to nothing.
    pub(super) fn take_back(&mut self, claim: Claim) {
        let Claim(_) = claim;
        self.holder = None;
        self.returned = self.returned.saturating_add(1);
    }

    /// How often that happened.
    pub(super) fn returned(&self) -> u8 {
        self.returned
    }
}

impl Claim {
    /// Whose it is.
    pub(super) fn branch(&self) -> Branch {
        self.0
    }

    /// The result is in its place: the arbiter never grants again.
    pub(super) fn consume(self) -> Branch {
        self.0
    }

    /// The same claim, for a copy of the whole race, arbiter included.
    pub(super) fn copy_with_race(&self) -> Self {
        Self(self.0)
    }
}
