//! A set of chunk indexes.

/// A set of chunk indexes; up to 64 chunks (256 MiB at 4 MiB) need no memory of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Bits {
    Small(u64),
    Large(Vec<u64>),
}

impl Default for Bits {
    fn default() -> Self {
        Self::Small(0)
    }
}

impl Bits {
    fn words(&self) -> &[u64] {
        match self {
            Self::Small(word) => std::slice::from_ref(word),
            Self::Large(words) => words,
        }
    }

    fn word_mut(&mut self, word: usize) -> &mut u64 {
        if let Self::Small(small) = self
            && word > 0
        {
            *self = Self::Large(vec![*small]);
        }
        match self {
            Self::Small(small) => small,
            Self::Large(words) => {
                if words.len() <= word {
                    words.resize(word + 1, 0);
                }
                &mut words[word]
            }
        }
    }

    pub fn get(&self, index: u32) -> bool {
        self.words().get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// A set of one.
    pub fn one(index: u32) -> Self {
        let mut bits = Self::default();
        bits.set(index);
        bits
    }

    /// True when it wasn't set.
    pub fn set(&mut self, index: u32) -> bool {
        let new = !self.get(index);
        *self.word_mut(index as usize / 64) |= 1 << (index % 64);
        new
    }

    /// True when it was set.
    pub fn clear(&mut self, index: u32) -> bool {
        let was = self.get(index);
        if was {
            *self.word_mut(index as usize / 64) &= !(1 << (index % 64));
        }
        was
    }

    pub fn count(&self) -> u64 {
        self.words().iter().map(|word| u64::from(word.count_ones())).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.words().iter().all(|word| *word == 0)
    }

    /// The highest index that is set.
    pub fn last(&self) -> Option<u32> {
        let words = self.words();
        let word = words.iter().rposition(|word| *word != 0)?;
        let base = u32::try_from(word).expect("2^32 chunks are 2^26 words") * 64;
        Some(base + words[word].ilog2())
    }

    /// The lowest index that is set and not below `start`.
    pub fn first_from(&self, start: u32) -> Option<u32> {
        let (word, bit) = (start as usize / 64, start % 64);
        let words = self.words().iter().enumerate().skip(word);
        let mut masked = words.map(|(at, bits)| (at, if at == word { bits & (u64::MAX << bit) } else { *bits }));
        let (at, bits) = masked.find(|(_, bits)| *bits != 0)?;
        Some(u32::try_from(at).expect("2^32 chunks are 2^26 words") * 64 + bits.trailing_zeros())
    }

    /// The highest index that is set below `end` and not below `start`; both near each other.
    pub fn last_in(&self, start: u32, end: u32) -> Option<u32> {
        (start..end).rev().find(|index| self.get(*index))
    }

    /// Above every index that can be set.
    pub fn end(&self) -> u32 {
        u32::try_from(self.words().len() * 64).unwrap_or(u32::MAX)
    }

    /// The indexes that are set below `end` and not below `start`, in order.
    pub fn iter_in(&self, start: u32, end: u32) -> impl Iterator<Item = u32> + '_ {
        (start..end.min(self.end())).filter(|index| self.get(*index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_are_a_set(steps in prop::collection::vec((0u32..300, any::<bool>()), 0..100)) {
            let (mut bits, mut model) = (Bits::default(), std::collections::BTreeSet::new());
            for (index, set) in steps {
                if set {
                    prop_assert_eq!(bits.set(index), model.insert(index));
                } else {
                    prop_assert_eq!(bits.clear(index), model.remove(&index));
                }
                prop_assert_eq!(bits.last(), model.last().copied());
                prop_assert_eq!(bits.count(), model.len() as u64);
                prop_assert_eq!(bits.is_empty(), model.is_empty());
                prop_assert_eq!(bits.get(index), model.contains(&index));
                prop_assert_eq!(bits.first_from(index), model.range(index..).next().copied());
            }
        }
    }
}
