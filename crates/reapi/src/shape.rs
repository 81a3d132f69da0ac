//! How much memory a message takes once it is decoded, told from its bytes before that is done.
//!
//! An element of a repeated field takes two bytes on the wire and up to some 250 in memory, so that a few megabytes of
//! nothing could take gigabytes. The elements are counted here by the fields that hold them; texts and bytes take what
//! they take on the wire. It does not know what the fields mean.

use std::mem::size_of;

use crate::proto::{bytestream, execution, longrunning, protobuf, rpc};
use crate::{DecodeError, Flaw, transfer};

/// Memory of elements per byte of the message. The smallest element anybody has a use for takes at most 6.
const RATIO: usize = 8;
/// Memory of elements that every message may take.
const FREE: usize = 1 << 20;
/// Memory of elements that no message may take more of.
const MOST: usize = 256 << 20;

/// A message that is decoded only after it was looked at.
pub trait Shaped {
    /// Its fields that take more memory than they have bytes.
    const SHAPE: &'static Shape;
}

/// Fields that hold elements, by number.
#[derive(Debug)]
pub struct Shape(&'static [(u32, Element)]);

/// What a field holds.
#[derive(Debug)]
struct Element {
    size: usize,
    shape: &'static Shape,
}

const fn message<M>(shape: &'static Shape) -> Element {
    Element { size: size_of::<M>(), shape }
}

const TEXT: Element = Element { size: size_of::<String>(), shape: &FLAT };
const DIGEST: Element = message::<execution::Digest>(&FLAT);
const NODE_PROPERTIES: Element = message::<execution::NodeProperties>(&Shape(&[(1, PAIR)]));
/// A name and a value: environment variables, properties of nodes and platforms.
const PAIR: Element = message::<execution::NodeProperty>(&FLAT);
const SYMLINK: Element = message::<execution::OutputSymlink>(&Shape(&[(4, NODE_PROPERTIES)]));
const ANY: Element = message::<protobuf::Any>(&FLAT);
const STATUS: Element = message::<rpc::Status>(rpc::Status::SHAPE);
const PLATFORM: Element = message::<execution::Platform>(&Shape(&[(1, PAIR)]));

static FLAT: Shape = Shape(&[]);

/// Gives messages their shapes.
macro_rules! shapes {
    ($($message:ty: [$($field:literal => $element:expr),* $(,)?],)*) => {
        $(impl Shaped for $message {
            const SHAPE: &'static Shape = &Shape(&[$(($field, $element)),*]);
        })*
    };
}

shapes! {
    rpc::Status: [3 => ANY],
    execution::ActionResult: [
        2 => message::<execution::OutputFile>(&Shape(&[(2, DIGEST), (7, NODE_PROPERTIES)])),
        3 => message::<execution::OutputDirectory>(&Shape(&[(3, DIGEST), (5, DIGEST)])),
        6 => DIGEST,
        8 => DIGEST,
        9 => message::<execution::ExecutedActionMetadata>(&Shape(&[(11, ANY)])),
        10 => SYMLINK,
        11 => SYMLINK,
        12 => SYMLINK,
    ],
    execution::Directory: [
        1 => message::<execution::FileNode>(&Shape(&[(2, DIGEST), (6, NODE_PROPERTIES)])),
        2 => message::<execution::DirectoryNode>(&Shape(&[(2, DIGEST)])),
        3 => message::<execution::SymlinkNode>(&Shape(&[(4, NODE_PROPERTIES)])),
        5 => NODE_PROPERTIES,
    ],
    execution::Command: [1 => TEXT, 2 => PAIR, 3 => TEXT, 4 => TEXT, 5 => PLATFORM, 7 => TEXT, 8 => TEXT],
    execution::Action: [10 => PLATFORM],
    execution::ExecuteResponse: [
        1 => message::<execution::ActionResult>(execution::ActionResult::SHAPE),
        3 => STATUS,
        // An entry of a map, and the room that a map keeps free.
        4 => Element { size: 2 * size_of::<(String, execution::LogFile)>(), shape: &FLAT },
    ],
    execution::FindMissingBlobsResponse: [2 => DIGEST],
    execution::BatchUpdateBlobsResponse: [
        1 => message::<execution::batch_update_blobs_response::Response>(&Shape(&[(1, DIGEST), (2, STATUS)])),
    ],
    execution::RequestMetadata: [],
    transfer::BatchReadBlobsResponse: [1 => message::<transfer::BlobRead>(&Shape(&[(1, DIGEST), (3, STATUS)]))],
    transfer::ReadResponse: [],
    bytestream::WriteResponse: [],
    longrunning::Operation: [2 => ANY, 4 => STATUS, 5 => ANY],
}

/// A `Tree` whose directories are left as they are. Each becomes an entry of a table, beside its bytes.
pub(crate) static TREE: Shape = Shape(&[(
    2,
    Element {
        size: size_of::<Vec<u8>>() + 2 * size_of::<(minibuild_core::Digest, crate::decode::Directory)>(),
        shape: &FLAT,
    },
)]);

/// Looks at a message before it is decoded.
///
/// # Errors
/// A [`DecodeError`] where it is no message, or takes much more memory than it has bytes.
pub fn check<M: Shaped>(what: &'static str, bytes: &[u8]) -> Result<(), DecodeError> {
    check_shape(what, bytes, M::SHAPE)
}

/// The same of a shape.
pub(crate) fn check_shape(what: &'static str, bytes: &[u8], shape: &Shape) -> Result<(), DecodeError> {
    let budget = bytes.len().saturating_mul(RATIO).saturating_add(FREE).min(MOST);
    weigh(bytes, shape, budget).map(drop).map_err(|flaw| DecodeError::new(what, "", flaw))
}

/// What is left of a budget. The recursion is as deep as shapes are.
fn weigh(mut bytes: &[u8], shape: &Shape, mut budget: usize) -> Result<usize, Flaw> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        match key & 7 {
            0 => drop(varint(&mut bytes)?),
            1 => drop(split(&mut bytes, 8)?),
            5 => drop(split(&mut bytes, 4)?),
            2 => {
                let length = varint(&mut bytes)?;
                let inner = split(&mut bytes, length)?;
                let element = shape.0.iter().find(|(field, _)| u64::from(*field) == key >> 3);
                if let Some((_, element)) = element {
                    let left = budget.checked_sub(element.size);
                    let left = left.ok_or_else(|| Flaw::TooLarge("the memory that its length is worth".to_owned()))?;
                    // Texts are no messages, and small messages hold nothing that is worth a look.
                    let is_leaf = element.shape.0.is_empty();
                    budget = if is_leaf { left } else { weigh(inner, element.shape, left)? };
                }
            }
            _ => return Err(Flaw::NotProtobuf("a field is of no kind that is used".to_owned())),
        }
    }
    Ok(budget)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Flaw> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = split(bytes, 1)? else { break };
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Flaw::NotProtobuf("a number is too long".to_owned()))
}

fn split<'a>(bytes: &mut &'a [u8], length: u64) -> Result<&'a [u8], Flaw> {
    let at = usize::try_from(length).ok();
    let (front, rest) = at
        .and_then(|at| bytes.split_at_checked(at))
        .ok_or_else(|| Flaw::NotProtobuf("it ends too early".to_owned()))?;
    *bytes = rest;
    Ok(front)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::proto::read;

    /// A field of so many elements, each with these bytes.
    fn repeated(field: u8, element: &[u8], count: usize) -> Vec<u8> {
        let length = u8::try_from(element.len()).expect("a short one");
        [&[field << 3 | 2, length][..], element].concat().repeat(count)
    }

    fn refused<M: Shaped + Message + Default>(bytes: &[u8]) {
        let got = read::<M>("message", bytes).map(drop).expect_err("takes too much memory");
        assert!(got.to_string().contains("more than the memory"), "{got}");
    }

    #[test]
    fn elements_of_nothing_are_refused_at_every_depth() {
        const MANY: usize = 1 << 20;
        for field in [2, 3, 10, 11, 12] {
            refused::<execution::ActionResult>(&repeated(field, &[], MANY));
        }
        for field in 1..=3 {
            refused::<execution::Directory>(&repeated(field, &[], MANY));
        }
        refused::<execution::FindMissingBlobsResponse>(&repeated(2, &[], MANY));
        refused::<execution::BatchUpdateBlobsResponse>(&repeated(1, &[], MANY));
        refused::<transfer::BatchReadBlobsResponse>(&repeated(1, &[], MANY));
        refused::<execution::Command>(&repeated(1, &[], MANY));
        refused::<rpc::Status>(&repeated(3, &[], MANY));
        // Properties of a file: two bytes of two levels each.
        let properties = repeated(1, &[], 50);
        let file = repeated(7, &properties, 1);
        refused::<execution::ActionResult>(&repeated(2, &file, MANY / 50));
        let result = repeated(2, &[], MANY);
        let mut response = vec![1 << 3 | 2];
        prost::encoding::encode_varint(result.len() as u64, &mut response);
        response.extend(result);
        refused::<execution::ExecuteResponse>(&response);
    }

    #[test]
    fn ordinary_messages_of_any_size_are_read() {
        /// Shows no more of a message than that it is another.
        fn same<M: Shaped + Message + Default + PartialEq>(message: &M) {
            assert!(read::<M>("message", &message.encode_to_vec()).expect("is read") == *message);
        }
        let digest = |at: usize| Some(execution::Digest { hash: format!("{at:064x}"), size_bytes: 1 });
        let file =
            |at: usize| execution::OutputFile { path: format!("{at:x}"), digest: digest(at), ..Default::default() };
        let node =
            |at: usize| execution::FileNode { name: format!("{at:x}"), digest: digest(at), ..Default::default() };
        let result = execution::ActionResult { output_files: (0..60_000).map(file).collect(), ..Default::default() };
        same(&result);
        let directory = execution::Directory { files: (0..60_000).map(node).collect(), ..Default::default() };
        same(&directory);
        let command = execution::Command { arguments: vec!["-I".into(); 60_000], ..Default::default() };
        same(&command);
        let texts = execution::ActionResult { stdout_raw: [0x12, 0].repeat(1 << 20), ..Default::default() };
        same(&texts);
    }

    #[test]
    fn what_is_no_message_is_refused_before_its_front_is_decoded() {
        for bad in [&[0x80][..], &[0x12], &[0x12, 5, 0], &[0x0b], &[0x09, 1], &[0xff; 11]] {
            let bytes = [&repeated(2, &[], 1), bad].concat();
            assert!(check::<execution::ActionResult>("ActionResult", &bytes).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_decodable_and_small_passes(bytes: Vec<u8>) {
            // Groups are the one thing that is skipped there and refused here.
            let has_group = |error: &DecodeError| error.to_string().contains("no kind");
            match check::<execution::ActionResult>("ActionResult", &bytes) {
                Ok(()) => {}
                Err(error) if has_group(&error) => {}
                Err(_) => prop_assert!(execution::ActionResult::decode(&*bytes).is_err()),
            }
        }
    }
}
