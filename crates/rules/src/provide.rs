//! What the expansion of one target is given, and what it gives.
//!
//! The second meeting point of the two halves of this crate (the first is [`crate::attr`]): the loader resolves
//! attributes into a [`TargetCx`], a built-in rule or `lang` turns it into actions of the
//! [`ModelBuilder`](crate::builder::ModelBuilder) and a [`Provided`]. Neither side sees the other's TOML.

use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{ActionId, ActionTags, ArtifactId, HostToolId, Inputs, Label, Model, PackageId, TargetId, Work};
use minibuild_diagnostics::diag::Span;

use crate::attr::{AttrValue, LocText};

/// A target whose attributes are resolved.
pub struct TargetCx<'a> {
    /// Its row.
    pub id: TargetId,
    /// Its label; the package directory is [`Label::package`].
    pub label: &'a Label,
    /// Its package's row.
    pub package: PackageId,
    /// One value for each [`AttrSpec`](crate::attr::AttrSpec) of the rule, in their order.
    pub attrs: &'a [AttrValue],
    /// Where each attribute was given, in the same order; `None` where it was not.
    pub attr_spans: &'a [Option<Span>],
    /// The target's header, such as `[[genrule]]`.
    pub header: Span,
    /// What every target may have.
    pub common: &'a Common,
}

/// Attributes that are the same for all rules.
#[derive(Clone, Debug, Default)]
pub struct Common {
    /// As written.
    pub tags: Box<[Box<str>]>,
    /// Those of `tags` that say where actions may run and be stored.
    pub action_tags: ActionTags,
    /// As written, sorted by name.
    pub platform: Arc<[(Box<str>, Box<str>)]>,
    /// Of the test, for tests.
    pub timeout: Option<Duration>,
    /// Arguments of the run, for runnable targets and tests.
    pub args: Vec<LocText>,
    /// Environment of the run, sorted by name.
    pub env: Vec<(Arc<str>, LocText)>,
}

/// What a target gives to the command line and to targets that depend on it.
#[derive(Clone, Default)]
pub struct Provided {
    /// What it stands for on the command line, in `files` attributes and in `$(location)`.
    pub outputs: Inputs,
    /// Set where it can be run. The loader adds `args` and `env` of the target, and makes the test action of tests.
    pub run: Option<Runnable>,
    /// Providers by name: [`crate::lang`] makes and reads the values; the loader sees their files as output groups.
    pub providers: Vec<(Arc<str>, ProviderValue)>,
    /// How the target's actions are carried out.
    pub recipes: Vec<(ActionId, Arc<dyn Recipe>)>,
}

/// One provider of one target.
#[derive(Clone)]
pub struct ProviderValue {
    /// All files of its fields: the output group of the provider's name.
    pub files: Inputs,
    /// Its fields.
    pub fields: Arc<dyn std::any::Any + Send + Sync>,
}

/// An executable and what it needs.
#[derive(Clone, Debug)]
pub struct Runnable {
    /// The program.
    pub executable: ArtifactId,
    /// Files it needs when it runs, its own executable not among them; those of runnable files among them included.
    pub runfiles: Inputs,
    /// Host programs it needs when it runs, such as an interpreter: they join the keys of tests and of actions that
    /// use it as a tool.
    pub host_tools: Box<[HostToolId]>,
}

/// Makes the expensive half of one target's actions. Pure; never fails.
pub trait Recipe: Send + Sync {
    /// The work of `action`, one of those the recipe was given with.
    fn work(&self, model: &Model, action: ActionId) -> Work;

    /// The argv of `action`, or the lines it writes, with the origin of each; empty where that is not known.
    fn explain(&self, model: &Model, action: ActionId) -> Vec<crate::lang::ArgOrigin> {
        let _ = (model, action);
        Vec::new()
    }
}
