//! What has kept its order: of everything that two lists have in common, as much as possible.

/// For each of `positions`, which are all different, whether it is of the longest part that ascends.
pub(super) fn ascending(positions: &[usize]) -> Vec<bool> {
    // Of all ascending parts of a length, the one that ends lowest can go on best (patience sorting).
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(positions.len());
    for (index, &position) in positions.iter().enumerate() {
        let length = ends.partition_point(|&end| positions[end] < position);
        before.push(length.checked_sub(1).map(|shorter| ends[shorter]));
        if length == ends.len() {
            ends.push(index);
        } else {
            ends[length] = index;
        }
    }
    let mut kept = vec![false; positions.len()];
    let mut next = ends.last().copied();
    while let Some(index) = next {
        kept[index] = true;
        next = before[index];
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(positions: &[usize]) -> Vec<usize> {
        let kept = ascending(positions);
        let both = positions.iter().zip(kept);
        both.filter(|(_, kept)| *kept).map(|(&at, _)| at).collect()
    }

    #[test]
    fn as_much_as_possible_keeps_its_order() {
        assert!(kept(&[]).is_empty());
        assert_eq!(kept(&[0, 1, 2]), [0, 1, 2]);
        // One rule moved to the front or to the back.
        assert_eq!(kept(&[3, 0, 1, 2]), [0, 1, 2]);
        assert_eq!(kept(&[1, 2, 3, 0]), [1, 2, 3]);
        assert_eq!(kept(&[2, 1, 0]).len(), 1);
        assert_eq!(kept(&[4, 0, 5, 1, 6, 2, 3]), [0, 1, 2, 3]);
    }
}
