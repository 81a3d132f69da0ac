//! The language of rule files: compiled once, expanded for each target.
//!
//! `compile` reads the TOML of all rule files and checks everything that does not depend on a target; `expand`
//! makes the actions of one target; a [`Recipe`](crate::provide::Recipe) makes argv, environments and contents only
//! when asked. It does not know packages, globs, labels or the configuration: the loader resolves those.

mod attrs;
mod carried;
mod carry;
mod compile;
mod compile_action;
mod compile_rule;
mod decl;
mod entries;
mod eval;
mod expand;
mod explain;
mod field;
mod give;
mod modify;
mod order;
mod recipe;
mod rule;
mod scope;
mod set;
mod template;
#[cfg(test)]
mod tests;
mod values;
mod vars;

pub use attrs::DefaultText;
pub use compile::compile;
pub use expand::Around;
pub use explain::{ArgOrigin, show_argv, show_origin};
pub use rule::RuleId;
pub use set::RuleSet;
pub use vars::{HostFacts, Setting, SettingValue, ToolVar, VarDecl, VarId, VarInputs, VarType, VarValue, Vars};
