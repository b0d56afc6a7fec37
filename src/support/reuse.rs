//! Vectors whose memory outlives what they hold.

/// An empty vector with the memory of another: for vectors of references that are filled again and
/// again, each time with another lifetime. The memory is kept where both types have the same layout.
pub fn emptied<A, B>(mut vector: Vec<A>) -> Vec<B> {
    vector.clear();
    // Collecting a vector's own iterator keeps its memory.
    vector.into_iter().map(|_| unreachable!("the vector is empty")).collect()
}

#[cfg(test)]
mod tests {
    use super::emptied;

    #[test]
    fn the_memory_stays() {
        let text = String::from("held");
        let mut vector: Vec<&str> = Vec::with_capacity(100);
        vector.push(&text);
        let start = vector.as_ptr();
        let mut other: Vec<&'static str> = emptied(vector);
        assert!(other.is_empty() && other.capacity() == 100);
        other.push("x");
        assert_eq!(other.as_ptr(), start);
    }
}
