//! Remote Execution API encodings: the only crate that knows protobuf.
//!
//! Canonical bytes of `Directory`, `Command` and `Action`, as the API's comments define them (lists sorted, no
//! unknown fields, default values left out), so that an action's key is its digest on any server; validated
//! decoding of what comes from outside (`decode`, [`BlobName`], `status`); and the generated types and services
//! themselves (`proto`); all but the first behind the feature `messages`. It does not know files, processes or connections.

mod action;
#[cfg(feature = "messages")]
pub mod decode;
mod flaw;
mod merkle;
#[cfg(feature = "messages")]
pub mod proto;
mod resource;
#[cfg(feature = "messages")]
mod shape;
#[cfg(feature = "messages")]
pub mod status;
#[cfg(feature = "messages")]
pub mod transfer;
mod tree_message;
mod wire;

pub use action::{ActionMessage, CommandMessage, OutputDirectoryFormat};
pub use flaw::{DecodeError, Flaw};
pub use merkle::{DirectoryBlobs, InputNode, InputRootError, input_root, tree_directories, tree_root};
pub use resource::{BlobName, Compressor, ResourceNameError, UploadName};
#[cfg(feature = "messages")]
pub use shape::Shaped;
pub use tree_message::{TreeBlob, tree_message};
