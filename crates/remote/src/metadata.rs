//! `RequestMetadata`: who calls and for what, on every call.
//!
//! It does not know calls or headers of users.

use minibuild_core::Requester;
use minibuild_reapi::proto::{Message as _, execution as proto};
use tonic::metadata::{BinaryMetadataValue, MetadataMap};

/// The key the API names.
const KEY: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";
/// Longest text of a label or mnemonic that is sent: servers limit headers to some KiB.
const LONGEST: usize = 1000;

/// Adds the metadata of one call. `None` is a call for no action.
pub(crate) fn add(map: &mut MetadataMap, invocation: &str, who: Option<&Requester>) {
    let message = proto::RequestMetadata {
        tool_details: Some(proto::ToolDetails {
            tool_name: "minibuild".to_owned(),
            tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        tool_invocation_id: invocation.to_owned(),
        correlated_invocations_id: invocation.to_owned(),
        action_id: who.map(|who| who.key.hex()).unwrap_or_default(),
        action_mnemonic: who.map(|who| shortened(&who.mnemonic)).unwrap_or_default(),
        target_id: who.map(|who| shortened(&who.label)).unwrap_or_default(),
        configuration_id: String::new(),
    };
    map.insert_bin(KEY, BinaryMetadataValue::from_bytes(&message.encode_to_vec()));
}

fn shortened(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use minibuild_core::DigestFunction;

    use super::*;

    #[test]
    fn the_metadata_of_an_action() {
        let key = DigestFunction::Sha256.digest(b"action");
        let who = Requester { label: "//ä:b".into(), mnemonic: "Genrule".into(), key };
        let mut map = MetadataMap::new();
        add(&mut map, "build-1", Some(&who));
        let bytes = map.get_bin(KEY).expect("is there").to_bytes().expect("base64");
        let message = proto::RequestMetadata::decode(&*bytes).expect("a message");
        assert_eq!(message.tool_details.expect("a tool").tool_name, "minibuild");
        assert_eq!((message.action_id, message.tool_invocation_id), (key.hex(), "build-1".to_owned()));
        assert_eq!((&*message.target_id, &*message.action_mnemonic), ("//ä:b", "Genrule"));
    }
}
