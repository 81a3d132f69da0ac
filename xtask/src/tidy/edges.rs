//! The table of allowed edges between our crates, compared with what cargo says.
//!
//! Only crates of this workspace are looked at; what comes from outside is cargo-deny's.

use serde::Deserialize;

use super::Finding;

/// Each crate with the crates its code uses, no more and no fewer; a build script counts as its code.
const ALLOWED: &[(&str, &[&str])] = &[
    ("minibuild-core", &[]),
    ("minibuild-diagnostics", &["minibuild-core"]),
    ("minibuild-rules", &["minibuild-core", "minibuild-diagnostics"]),
    ("minibuild-loader", &["minibuild-core", "minibuild-diagnostics", "minibuild-rules"]),
    ("minibuild-reapi", &["minibuild-core"]),
    ("minibuild-graph", &["minibuild-core", "minibuild-reapi"]),
    ("minibuild-dynamic", &["minibuild-core"]),
    ("minibuild-download", &["minibuild-core"]),
    ("minibuild-disk", &["minibuild-core", "minibuild-reapi"]),
    ("minibuild-local", &["minibuild-core", "minibuild-disk"]),
    ("minibuild-remote", &["minibuild-core", "minibuild-disk", "minibuild-reapi"]),
    ("minibuild-store", &["minibuild-core", "minibuild-disk", "minibuild-reapi"]),
    ("minibuild-server", &["minibuild-core", "minibuild-disk", "minibuild-local", "minibuild-reapi"]),
    (
        "minibuild-engine",
        &[
            "minibuild-core",
            "minibuild-disk",
            "minibuild-download",
            "minibuild-dynamic",
            "minibuild-graph",
            "minibuild-local",
            "minibuild-reapi",
        ],
    ),
    (
        "minibuild",
        &[
            "minibuild-core",
            "minibuild-disk",
            "minibuild-download",
            "minibuild-dynamic",
            "minibuild-engine",
            "minibuild-graph",
            "minibuild-loader",
            "minibuild-local",
            "minibuild-remote",
            "minibuild-server",
            "minibuild-store",
        ],
    ),
    ("minibuild-testkit", &["minibuild-core"]),
    // The simulator runs the very policy the engine runs.
    ("xtask", &["minibuild-core", "minibuild-dynamic"]),
];

/// What every crate's tests may use besides.
const TEST_CRATE: &str = "minibuild-testkit";

/// What the tests of single crates may use besides: a client is tested against the server, whose workers need their
/// helper, and the program against messages that no other client sends.
const ALLOWED_IN_TESTS: &[(&str, &[&str])] =
    &[("minibuild", &["minibuild-reapi"]), ("minibuild-remote", &["minibuild-local", "minibuild-server"])];

/// A package of the workspace, as `cargo metadata` prints it.
#[derive(Debug, Deserialize)]
pub struct Package {
    pub name: String,
    pub license: Option<String>,
    pub dependencies: Vec<Dependency>,
}

/// One line of a manifest's dependencies.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    pub name: String,
    /// `dev`, `build`, or nothing for a normal one.
    pub kind: Option<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

/// Reads the output of `cargo metadata`.
pub fn parse_metadata(json: &str) -> Result<Vec<Package>, String> {
    let metadata: Metadata =
        serde_json::from_str(json).map_err(|error| format!("cannot read cargo's metadata: {error}"))?;
    Ok(metadata.packages)
}

/// Every edge that only the table or only a manifest has, and every crate the table does not know.
pub fn check(packages: &[Package]) -> Vec<Finding> {
    packages.iter().flat_map(|package| check_package(package, packages)).collect()
}

fn check_package(package: &Package, packages: &[Package]) -> Vec<Finding> {
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == package.name) else {
        let message = "the table of allowed crate edges does not have this crate; \
                       say in xtask/src/tidy/edges.rs what it may use and why";
        return vec![Finding::about(&package.name, message)];
    };
    let ours = |name: &str| packages.iter().any(|package| package.name == name);
    let is_allowed = |dependency: &Dependency| {
        let is_dev = dependency.kind.as_deref() == Some("dev");
        allowed.contains(&dependency.name.as_str()) || (is_dev && is_allowed_in_tests(&package.name, &dependency.name))
    };
    let bad = package.dependencies.iter().filter(|dependency| ours(&dependency.name) && !is_allowed(dependency));
    let bad = bad.map(|dependency| format!("must not depend on `{}`", dependency.name));
    let is_used = |name: &&&str| {
        package.dependencies.iter().any(|used| used.name == **name && used.kind.as_deref() != Some("dev"))
    };
    let unused = allowed.iter().filter(|name| !is_used(name));
    let unused = unused.map(|name| format!("does not use `{name}`: take it off the table in xtask/src/tidy/edges.rs"));
    bad.chain(unused).map(|message| Finding::about(&package.name, message)).collect()
}

fn is_allowed_in_tests(package: &str, dependency: &str) -> bool {
    let own = ALLOWED_IN_TESTS.iter().find(|(name, _)| *name == package);
    dependency == TEST_CRATE || own.is_some_and(|(_, allowed)| allowed.contains(&dependency))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::fixture::assert_found;

    /// The packages and edges of the table; `more` edges are (from, to, kind).
    fn packages(more: &[(&str, &str, Option<&str>)]) -> Vec<Package> {
        let dependency = |name: &str, kind: Option<&str>| Dependency { name: name.into(), kind: kind.map(Into::into) };
        let package = |(name, allowed): &(&str, &[&str])| {
            let more = more.iter().filter(|(from, _, _)| from == name).map(|(_, to, kind)| dependency(to, *kind));
            let dependencies = allowed.iter().map(|to| dependency(to, None)).chain(more).collect();
            Package { name: (*name).into(), license: None, dependencies }
        };
        ALLOWED.iter().map(package).collect()
    }

    #[test]
    fn good_edges_pass() {
        let good = packages(&[
            ("minibuild-rules", "serde", None),
            ("minibuild-rules", "minibuild-testkit", Some("dev")),
            ("minibuild-remote", "minibuild-server", Some("dev")),
        ]);
        assert_found(&check(&good), &[]);
    }

    #[test]
    fn an_edge_that_nothing_uses_is_named() {
        let mut packages = packages(&[]);
        let local = packages.iter_mut().find(|package| package.name == "minibuild-local").expect("is in the table");
        for dependency in local.dependencies.iter_mut().filter(|dependency| dependency.name == "minibuild-disk") {
            dependency.kind = Some("dev".to_owned());
        }
        assert_found(&check(&packages), &["minibuild-local: does not use `minibuild-disk`"]);
    }

    #[test]
    fn each_forbidden_edge_is_named() {
        let bad = packages(&[
            ("minibuild-core", "minibuild-rules", None),
            ("minibuild-rules", "minibuild-disk", Some("build")),
            ("minibuild-graph", "minibuild-disk", Some("dev")),
            ("minibuild-local", "minibuild-testkit", None),
            ("minibuild-remote", "minibuild-server", None),
        ]);
        let expected = [
            "minibuild-core: must not depend on `minibuild-rules`",
            "minibuild-rules: must not depend on `minibuild-disk`",
            "minibuild-graph: must not depend on `minibuild-disk`",
            "minibuild-local: must not depend on `minibuild-testkit`",
            "minibuild-remote: must not depend on `minibuild-server`",
        ];
        assert_found(&check(&bad), &expected);
    }

    #[test]
    fn a_crate_the_table_does_not_know_is_found() {
        let package = Package { name: "minibuild-util".into(), license: None, dependencies: Vec::new() };
        assert_found(&check(&[package]), &["minibuild-util: the table"]);
    }

    #[test]
    fn the_table_itself_has_no_circle() {
        fn reaches(from: &str, to: &str) -> bool {
            let row = ALLOWED.iter().find(|(name, _)| *name == from);
            row.is_some_and(|(_, allowed)| allowed.iter().any(|next| *next == to || reaches(next, to)))
        }
        for (name, _) in ALLOWED {
            assert!(!reaches(name, name), "{name}");
        }
    }

    #[test]
    fn metadata_is_read() {
        let json = r#"{"packages":[{"name":"a","license":"MIT","version":"1",
            "dependencies":[{"name":"b","kind":null},{"name":"c","kind":"dev"}]}]}"#;
        let packages = parse_metadata(json).expect("valid metadata");
        assert_eq!(packages[0].dependencies[1].kind.as_deref(), Some("dev"));
        assert!(parse_metadata("[]").is_err());
    }
}
