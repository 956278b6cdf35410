use super::*;

#[test]
fn one_mark_is_compared_without_its_flags() {
    assert_eq!(Select::Mark(MARK_TAG | 7).mark_and_mask(), (MARK_TAG | 7, 0xff0f_ffff));
    assert_eq!(Select::Ours.mark_and_mask(), (MARK_TAG, 0xff00_0000));
}

#[test]
fn a_selection_covers_all_its_marks_and_none_of_other_tags() {
    for ids in [&[1][..], &[1, 2], &[4, 5, 6, 7], &[1, MARK_ID_MASK], &[8, 9, 8]] {
        let marks: Vec<u32> = ids.iter().map(|id| MARK_TAG | id).collect();
        let Some(Select::Bits { value, mask }) = Select::covering(marks.iter().copied()) else { panic!("{ids:?}") };
        assert!(marks.iter().all(|mark| mark & TAG_MASK == value & TAG_MASK), "{ids:?}");
        assert!(marks.iter().all(|one| one & mask == value), "{ids:?}");
        assert_eq!(value & !mask, 0);
        // Flags of a flow are no reason not to count it.
        assert_eq!(mask & 0x00f0_0000, 0);
    }
    let four = Select::covering([4, 5, 6, 7].map(|id| MARK_TAG | id)).expect("four marks");
    assert_eq!(four, Select::Bits { value: MARK_TAG | 4, mask: TAG_MASK | MARK_ID_MASK & !3 });
    assert_eq!(Select::covering([]), None);
}
