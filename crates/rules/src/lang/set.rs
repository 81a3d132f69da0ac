//! The compiled rules of one load, and the values of their variables. Knows the tables, not how they were read.

use std::sync::Arc;

use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, Span};
use minibuild_diagnostics::source::quoted_list;
use minibuild_diagnostics::suggest;
use rustc_hash::FxHashMap;

use super::decl::text_value;
use super::rule::{Provider, Rule, RuleId};
use super::vars::{Setting, SettingValue, ToolVar, VarDecl, VarId, VarInputs, VarType, VarValue, Vars};
use crate::attr::AttrSpec;

/// Values a configuration gives to variables.
pub type Overlay = (Arc<str>, Vec<(VarId, VarValue)>);

/// All rules, providers and variables of the rule files.
#[derive(Debug, Default)]
pub struct RuleSet {
    vars: Vec<VarDecl>,
    configs: Vec<Overlay>,
    pub(super) providers: Arc<[Provider]>,
    rules: Vec<Arc<Rule>>,
    by_name: FxHashMap<Arc<str>, RuleId>,
}

impl RuleSet {
    pub(super) fn new(
        vars: Vec<VarDecl>,
        configs: Vec<Overlay>,
        providers: Vec<Provider>,
        rules: Vec<Arc<Rule>>,
    ) -> Self {
        let by_name = rules.iter().enumerate().map(|(at, rule)| (rule.name.clone(), RuleId(at))).collect();
        Self { vars, configs, providers: providers.into(), rules, by_name }
    }

    /// The rule of that name.
    pub fn rule(&self, name: &str) -> Option<RuleId> {
        self.by_name.get(name).copied()
    }

    /// Names of all rules in order of declaration.
    pub fn rule_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rules.iter().map(|rule| &rule.name)
    }

    pub(super) fn get(&self, id: RuleId) -> &Arc<Rule> {
        &self.rules[id.0]
    }

    /// The attributes of a rule, those of its parts first.
    pub fn attrs(&self, id: RuleId) -> &[AttrSpec] {
        &self.get(id).attrs
    }

    /// What a rule makes.
    pub fn rule_doc(&self, id: RuleId) -> Option<&Arc<str>> {
        self.get(id).doc.as_ref()
    }

    /// Where a rule is declared.
    pub fn rule_span(&self, id: RuleId) -> Span {
        self.get(id).span
    }

    /// Whether targets of the rule are tests.
    pub fn is_test(&self, id: RuleId) -> bool {
        self.get(id).run.as_ref().is_some_and(|run| run.test)
    }

    /// Whether targets of the rule can be run; tests can.
    pub fn is_runnable(&self, id: RuleId) -> bool {
        self.get(id).run.is_some()
    }

    /// The names of the providers targets of a rule give, `run` not among them.
    pub fn provided_by(&self, id: RuleId) -> impl Iterator<Item = &Arc<str>> {
        self.get(id).provides.iter().map(|(provider, _)| &self.providers[usize::from(*provider)].name)
    }

    /// The providers: name, doc, and name, type, doc of each field.
    pub fn providers(&self) -> &[Provider] {
        &self.providers
    }

    /// The tool variables a rule mentions: where they are labels, its targets depend on them.
    pub fn tool_vars(&self, id: RuleId) -> &[VarId] {
        &self.get(id).tool_vars
    }

    /// Mnemonics of all actions that rule files declare.
    pub fn mnemonics(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().flat_map(|rule| &rule.actions).map(|action| &*action.fixed.mnemonic)
    }

    /// All variables, by `VarId`; `os` and `arch` come first.
    pub fn vars(&self) -> &[VarDecl] {
        &self.vars
    }

    /// Names of configurations that rule files have overlays for.
    pub fn configs(&self) -> impl Iterator<Item = &Arc<str>> {
        self.configs.iter().map(|(name, _)| name)
    }

    /// The values of one load.
    pub fn resolve_vars(&self, inputs: &VarInputs, diags: &mut Diagnostics) -> Vars {
        let mut values: Vec<VarValue> = self.vars.iter().map(|decl| decl.default.clone()).collect();
        for (name, fact) in [("os", &inputs.host.os), ("arch", &inputs.host.arch)] {
            if let Some(at) = self.vars.iter().position(|decl| *decl.name == *name) {
                values[at] = VarValue::Text(Arc::from(fact.as_str()));
            }
        }
        self.apply(&inputs.base, &mut values, diags);
        for (config, settings) in &inputs.configs {
            for (id, value) in self.configs.iter().filter(|(name, _)| **name == **config).flat_map(|(_, values)| values)
            {
                values[usize::from(id.0)] = value.clone();
            }
            self.apply(settings, &mut values, diags);
        }
        self.apply(&inputs.flags, &mut values, diags);
        let names = self.vars.iter().map(|decl| decl.name.clone()).collect();
        let versions =
            self.vars.iter().map(|decl| decl.version.iter().map(|arg| Box::from(&**arg)).collect()).collect();
        Vars { names, versions, values }
    }

    fn apply(&self, settings: &[Setting], values: &mut [VarValue], diags: &mut Diagnostics) {
        for setting in settings {
            let Some(at) = self.vars.iter().position(|decl| *decl.name == *setting.name) else {
                diags.push(self.unknown_variable(setting));
                continue;
            };
            match setting_value(&self.vars[at], &setting.value) {
                Ok(value) => values[at] = value,
                Err(message) => diags.push(complaint(&self.vars[at], setting, message)),
            }
        }
    }

    fn unknown_variable(&self, setting: &Setting) -> Diagnostic {
        let message = format!("no variable `{}` is declared", setting.name);
        let near = suggest::did_you_mean(&setting.name, self.vars.iter().map(|decl| &*decl.name));
        match setting.span {
            Some(span) => near.into_iter().fold(Diagnostic::at(span, message), |d, near| d.label(near)),
            None => {
                let diagnostic = Diagnostic::error(format!("{}: {message}", setting.origin));
                near.into_iter().fold(diagnostic, |d, near| d.hint(near))
            }
        }
    }
}

fn complaint(decl: &VarDecl, setting: &Setting, message: String) -> Diagnostic {
    let diagnostic = match setting.span {
        Some(span) => Diagnostic::at(span, message),
        None => Diagnostic::error(format!("{}: {message}", setting.origin)),
    };
    let diagnostic =
        decl.span.into_iter().fold(diagnostic, |d, span| d.note(span, format!("`{}` is declared here", decl.name)));
    decl.doc.iter().fold(diagnostic, |d, doc| d.hint(format!("{}: {doc}", decl.name)))
}

fn setting_value(decl: &VarDecl, value: &SettingValue) -> Result<VarValue, String> {
    match (decl.ty, value) {
        (VarType::Bool, SettingValue::Bool(value)) => Ok(VarValue::Bool(*value)),
        (VarType::Bool, SettingValue::Text(text)) => match text.as_str() {
            "true" => Ok(VarValue::Bool(true)),
            "false" => Ok(VarValue::Bool(false)),
            _ => Err(format!("`vars.{}` is `true` or `false`, not `{text}`", decl.name)),
        },
        (VarType::Strings, SettingValue::Texts(texts)) => Ok(shared(texts)),
        (VarType::Strings, SettingValue::Text(text)) => {
            let texts = toml_strings(text).ok_or_else(|| {
                format!(
                    "`vars.{}` is a list and is written as a TOML array such as `[\"a\", \"b\"]`, not `{text}`",
                    decl.name
                )
            })?;
            Ok(shared(&texts))
        }
        (VarType::String | VarType::Enum | VarType::Tool, SettingValue::Text(text)) => text_value(decl, text),
        (ty, _) => Err(format!("`vars.{}` takes {}", decl.name, in_words(ty, decl))),
    }
}

fn in_words(ty: VarType, decl: &VarDecl) -> String {
    match ty {
        VarType::String => "a string".to_owned(),
        VarType::Strings => "an array of strings".to_owned(),
        VarType::Bool => "`true` or `false`".to_owned(),
        VarType::Enum => format!("one of {}", quoted_list(decl.values.iter().map(|value| &**value))),
        VarType::Tool => "the name of a program or a label".to_owned(),
    }
}

fn shared(texts: &[String]) -> VarValue {
    VarValue::Texts(texts.iter().map(|text| Arc::from(text.as_str())).collect())
}

/// A TOML array of strings.
fn toml_strings(text: &str) -> Option<Vec<String>> {
    let value = toml::de::DeValue::parse(text).ok()?;
    let items = value.get_ref().as_array()?;
    items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
}

impl Vars {
    /// The host program a tool variable names, if it names one.
    pub fn host_tool(&self, id: VarId) -> Option<minibuild_core::HostTool> {
        let at = usize::from(id.0);
        match self.values.get(at)? {
            VarValue::Tool(ToolVar::Host(program)) => {
                let version_args = self.versions.get(at).cloned().unwrap_or_default();
                Some(minibuild_core::HostTool { program: Box::from(&**program), version_args })
            }
            _ => None,
        }
    }
}
