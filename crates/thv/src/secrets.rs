//! Secrets for servers: named in the run config, read when the server is started, written nowhere.

use std::collections::BTreeMap;

use thv_keychain::{Entry, EnvironmentStore, Secrets, SecretsError, Store as _};
use thv_workload::config::RunConfig;
use thv_workload::home::Home;
use thv_workload::server::may_pass;
use zeroize::Zeroizing;

use crate::failure::{Exit, Failure, Outcome};
use crate::keys::KeyVault;
use crate::store;

/// Values by the name of the secret, or of the variable.
pub type Values = BTreeMap<String, Zeroizing<String>>;

/// One secret that a server is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    /// The variable in the server's environment.
    pub variable: String,
}

impl Wanted {
    /// Reads `NAME,target=VARIABLE`, as ToolHive writes it.
    pub fn parse(text: &str) -> Outcome<Self> {
        let wrong = |why: String| {
            Failure::new(Exit::Usage, format!("--secret {text}: {why}"))
                .hint("write it as NAME,target=VARIABLE")
        };
        let (name, variable) =
            text.rsplit_once(",target=").ok_or_else(|| wrong("it names no variable".to_owned()))?;
        Entry::secret(name).map_err(|error| wrong(error.to_string()))?;
        if variable.is_empty() || variable.contains(['=', '\0']) {
            return Err(wrong(format!("{variable:?} cannot be a variable")));
        }
        if !may_pass(variable) {
            return Err(Failure::new(Exit::Refused, format!("{variable} is not handed to servers"))
                .hint("variables that begin with THV_, TOOLHIVE_ or DBUS_ lead to keys"));
        }
        Ok(Self { name: name.to_owned(), variable: variable.to_owned() })
    }
}

/// The secrets that a run config asks for.
pub fn wanted(config: &RunConfig) -> Outcome<Vec<Wanted>> {
    let wanted = config.secrets.iter().map(|text| Wanted::parse(text)).collect::<Outcome<Vec<_>>>()?;
    for (n, one) in wanted.iter().enumerate() {
        let Wanted { variable, .. } = one;
        let twice = wanted[..n].iter().any(|other| other.variable == *variable);
        if twice || config.env_vars.contains_key(variable) {
            return Err(Failure::new(Exit::Usage, format!("{variable} would have two values"))
                .hint("give each variable to the server once, by -e or by --secret"));
        }
    }
    Ok(wanted)
}

/// Those among `wanted` that the environment of a command holds. They are taken before those of the store.
pub fn given(wanted: &[Wanted], environment: &EnvironmentStore) -> Values {
    let value = |one: &Wanted| {
        let value = environment.get(&Entry::secret(&one.name).ok()?).ok()??;
        Some((one.name.clone(), Zeroizing::new(value.expose_text()?.to_owned())))
    };
    wanted.iter().filter_map(value).collect()
}

/// The variables for the server: from what its launcher was given, and from the store.
pub fn resolve(home: &Home, config: &RunConfig, given: &Values) -> Outcome<Values> {
    let wanted = wanted(config)?;
    let mut values = Values::new();
    let (at_hand, stored): (Vec<_>, Vec<_>) =
        wanted.into_iter().partition(|one| given.contains_key(&one.name));
    for Wanted { name, variable } in at_hand {
        values.extend(given.get(&name).map(|value| (variable, value.clone())));
    }
    // Whoever wants nothing from the store does not depend on it.
    if stored.is_empty() {
        return Ok(values);
    }
    let kept = KeyVault::read(home, |vault| {
        let secrets = Secrets::new(vault.vault().store());
        stored.iter().map(|one| secrets.get(&one.name)).collect::<Result<Vec<_>, _>>()
    })?;
    for (Wanted { name, variable }, value) in stored.into_iter().zip(kept.map_err(|error| failed(&error))?) {
        let text = value.expose_text().filter(|text| !text.contains('\0')).ok_or_else(|| {
            Failure::new(Exit::Refused, format!("the secret {name:?} cannot be the value of a variable"))
                .hint("a variable holds text without zero bytes")
        })?;
        values.insert(variable, Zeroizing::new(text.to_owned()));
    }
    Ok(values)
}

/// A failure about a secret, for a person.
pub fn failed(error: &SecretsError) -> Failure {
    let failure = |exit| Failure::new(exit, error.to_string());
    match error {
        SecretsError::Store(error) => store::failed("the secrets cannot be used", error),
        SecretsError::NotFound { name } => failure(Exit::NotFound)
            .hint(format!("thv secret set {name} makes one; thv secret list shows what there is")),
        SecretsError::Name(_) => failure(Exit::Usage),
        _ => failure(Exit::Failed).hint("nothing was changed; thv doctor says more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_names_a_secret_and_a_variable() {
        let wanted = Wanted::parse("github,target=GITHUB_TOKEN").unwrap();
        assert_eq!((wanted.name.as_str(), wanted.variable.as_str()), ("github", "GITHUB_TOKEN"));
        assert_eq!(Wanted::parse("a,target=b,target=C").unwrap().name, "a,target=b");
        for (wrong, exit) in [
            ("github", Exit::Usage),
            (",target=X", Exit::Usage),
            ("x,target=", Exit::Usage),
            ("x,target=A=B", Exit::Usage),
            ("x,target=THV_HOME", Exit::Refused),
            ("x,target=TOOLHIVE_SHARED_KEY", Exit::Refused),
        ] {
            assert_eq!(Wanted::parse(wrong).unwrap_err().exit(), exit, "{wrong}");
        }
    }

    #[test]
    fn a_variable_has_one_value() {
        let config = |secrets: &[&str], env: &str| {
            let secrets = secrets.iter().map(|&text| text.to_owned()).collect();
            let env_vars = BTreeMap::from([(env.to_owned(), String::new())]);
            RunConfig { secrets, env_vars, ..RunConfig::default() }
        };
        assert_eq!(wanted(&config(&["a,target=A", "a,target=B"], "C")).unwrap().len(), 2);
        assert!(wanted(&config(&["a,target=A", "b,target=A"], "C")).is_err());
        assert!(wanted(&config(&["a,target=A"], "A")).is_err());
    }
}
