//! What single actions are besides their edges, as a snapshot keeps it.

/// What single actions are besides their edges, one [`sealed`](super::file::sealed) piece each.
#[derive(Default)]
pub(super) struct Details {
    pub places: Vec<u64>,
    pub bytes: Vec<u8>,
}

impl Details {
    /// The piece of a row.
    pub fn get(&self, row: usize) -> &[u8] {
        let begin = self.places.get(row).copied().unwrap_or_default() as usize;
        let end = self.places.get(row + 1).map_or(self.bytes.len(), |&end| end as usize);
        self.bytes.get(begin..end).unwrap_or_default()
    }
}
