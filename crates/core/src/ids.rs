//! Typed dense ids: an index into one table of the [`Model`](crate::Model), never mixed up with another's.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! dense_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(u32);

        impl $name {
            /// The id of row `index` of its table.
            pub fn new(index: usize) -> Self {
                Self(u32::try_from(index).expect("a table has less than 2^32 rows"))
            }

            /// The row of its table.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

dense_id!(
    /// A loaded package.
    PackageId
);
dense_id!(
    /// A loaded target.
    TargetId
);
dense_id!(
    /// An action of the graph.
    ActionId
);
dense_id!(
    /// A source file or an output.
    ArtifactId
);
dense_id!(
    /// A shared set of artifacts, such as one provider field of one target.
    SetId
);
dense_id!(
    /// A program of the host that actions run.
    HostToolId
);
