//! A codec that looks at a message before it is decoded.

use std::marker::PhantomData;

use bytes::Buf as _;
use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder};
use tonic_prost::ProstCodec;

use crate::Flaw;
use crate::shape::{self, Shaped};

/// Encodes `T`, decodes `U` if it does not take much more memory than it has bytes.
#[derive(Debug)]
pub(super) struct CheckedCodec<T, U>(PhantomData<(T, U)>);

/// The part that decodes.
#[derive(Debug)]
pub(super) struct CheckedDecoder<U>(PhantomData<U>);

impl<T, U> Default for CheckedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for CheckedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Shaped + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = CheckedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        CheckedDecoder(PhantomData)
    }
}

impl<U: Message + Default + Shaped> Decoder for CheckedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // A message is in one piece.
        shape::check::<U>("answer", buffer.chunk()).map_err(|error| match error.flaw() {
            // The same comes if it is asked for once more.
            Flaw::TooLarge(_) => Status::out_of_range(error.to_string()),
            // As tonic's own codec has it: something on the way may have done that.
            _ => Status::internal(error.to_string()),
        })?;
        let decoded = U::decode(buffer).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(decoded))
    }
}
