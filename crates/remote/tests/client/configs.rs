//! Configurations that are refused, and that nothing is connected to before it is needed.

use std::sync::Arc;

use minibuild_remote::{RemoteClient, RemoteConfig};

use crate::harness::Fixture;

fn refused(fixture: &Fixture, edit: impl FnOnce(&mut RemoteConfig)) -> String {
    let mut config = fixture.config();
    edit(&mut config);
    match RemoteClient::open(config, Arc::new(|_| {})) {
        Ok(_) => panic!("opens"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_cannot_work_is_refused_at_once() {
    let fixture = Fixture::new();
    let check = |edit: fn(&mut RemoteConfig), part: &str| {
        let text = refused(&fixture, edit);
        assert!(text.contains(part) && !text.contains("secret"), "{text} lacks {part}");
    };
    check(|c| c.executor = None, "neither executor nor cache");
    check(|c| c.executor = Some("localhost".to_owned()), "begins with none");
    check(|c| c.executor = Some("http://h/".to_owned()), "nothing is executed by HTTP");
    check(|c| c.cache = Some("http://me:secret@h/".to_owned()), "cannot be used beside an executor");
    check(|c| c.cache = Some("gopher://h".to_owned()), "begins with none");
    check(|c| c.headers = vec![("a b".to_owned(), "secret".to_owned())], "`a b`");
    for executor in ["grpcs://h:1", "https://h"] {
        let text = refused(&fixture, |config| {
            config.executor = executor.starts_with("grpcs").then(|| executor.to_owned());
            config.cache = executor.starts_with("https").then(|| executor.to_owned());
            config.tls.ca = Some("/nowhere/ca.pem".to_owned());
        });
        assert!(text.contains("certificate authorities in `/nowhere/ca.pem`"), "{text}");
    }
}

#[test]
fn an_open_client_has_no_connection() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.remote().stop(crate::harness::run_id(), minibuild_core::StopReason::Kill);
    client.remote().stop_fetches();
    assert_eq!(client.remote().transfer_counts().files, 0);
    client.shutdown();
    assert!(fixture.counts().methods.is_empty() && client.rest().is_empty());
}
