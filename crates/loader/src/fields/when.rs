//! Entries of lists that only count under conditions: `{ when = { vars.NAME = VALUE }, items = [...] }`. It does not
//! know what the items are.

use minibuild_diagnostics::suggest::did_you_mean;
use minibuild_diagnostics::walk::{Key, Value};
use minibuild_rules::lang::{ToolVar, VarValue};
use toml::de::{DeTable, DeValue};

use super::FieldReader;

impl FieldReader<'_, '_> {
    /// The items of an entry whose conditions hold. Those of another are not looked at: they may be files that exist
    /// elsewhere only.
    pub(super) fn conditional(
        &mut self,
        name: &str,
        item: &Value<'_>,
        table: &DeTable<'_>,
        visit: &mut dyn FnMut(&mut Self, &Value<'_>) -> bool,
    ) -> bool {
        let mut fine = true;
        for (key, _) in table.iter().filter(|(key, _)| !matches!(&**key.get_ref(), "when" | "items")) {
            self.walk.unknown_key(key, "a conditional entry", ["when", "items"]);
            fine = false;
        }
        let (Some(when), Some(items)) = (table.get("when"), table.get("items")) else {
            self.walk.error(item, "a conditional entry needs both `when` and `items`");
            return false;
        };
        let Some(holds) = self.holds(when) else { return false };
        if !holds {
            return self.walk.array(items, "items").is_some() && fine;
        }
        self.each(name, items, visit) && fine
    }

    /// Whether all conditions of a `when` hold; `None` after a complaint.
    fn holds(&mut self, when: &Value<'_>) -> Option<bool> {
        let conditions = self.walk.table(when, "when")?;
        let mut holds = Some(true);
        for (key, value) in conditions {
            if key.get_ref() != "vars" {
                let name = key.get_ref().to_string();
                self.walk
                    .error(key, format!("unknown condition `{name}`"))
                    .hints
                    .push("conditions are `vars.NAME = VALUE`".into());
                holds = None;
                continue;
            }
            let Some(vars) = self.walk.table(value, "vars") else {
                holds = None;
                continue;
            };
            for (name, wanted) in vars {
                let one = self.variable_is(name, wanted);
                holds = holds.zip(one).map(|(a, b)| a && b);
            }
        }
        holds
    }

    fn variable_is(&mut self, key: &Key<'_>, wanted: &Value<'_>) -> Option<bool> {
        let vars = self.files.cx.vars;
        let Some(actual) = vars.by_name(key.get_ref()) else {
            let name = key.get_ref().to_string();
            let hint = did_you_mean(&name, self.files.cx.var_names.iter().map(|n| &**n));
            self.walk.error(key, format!("unknown variable `{name}`")).hints.extend(hint);
            return None;
        };
        match wanted.get_ref() {
            DeValue::Array(any) => {
                let mut found = Some(false);
                for item in any.iter() {
                    let one = self.equals(key, actual, item);
                    found = found.zip(one).map(|(a, b)| a || b);
                }
                found
            }
            _ => self.equals(key, actual, wanted),
        }
    }

    fn equals(&mut self, key: &Key<'_>, actual: &VarValue, wanted: &Value<'_>) -> Option<bool> {
        match (actual, wanted.get_ref()) {
            (VarValue::Text(text), DeValue::String(wanted)) => Some(**text == **wanted),
            (VarValue::Bool(truth), DeValue::Boolean(wanted)) => Some(truth == wanted),
            (VarValue::Texts(texts), DeValue::Boolean(wanted)) => Some(texts.is_empty() != *wanted),
            (VarValue::Tool(ToolVar::Host(text) | ToolVar::Label(text, _)), DeValue::String(wanted)) => {
                Some(**text == **wanted)
            }
            (VarValue::Text(_) | VarValue::Tool(_), _) => {
                self.walk.wrong_type(wanted, &format!("vars.{}", key.get_ref()), "a string");
                None
            }
            _ => {
                self.walk.wrong_type(wanted, &format!("vars.{}", key.get_ref()), "`true` or `false`");
                None
            }
        }
    }
}
