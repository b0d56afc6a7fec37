//! Every kind of lanes against single numbers.

use super::*;

/// Places on and beside every step between two numbers, four beyond a range, and special values.
fn places() -> Vec<f32> {
    let mut places: Vec<f32> = (-36 * 64..=36 * 64).map(|step| step as f32 / 64.0).collect();
    for step in -72..=72 {
        let half = step as f32 / 2.0;
        places.extend([half.next_up(), half.next_down()]);
    }
    places
}

const SPECIAL: [f32; 16] = [
    f32::NAN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::MAX,
    f32::MIN,
    1e-45,
    -0.0,
    0.0,
    4_194_303.0,
    -4_194_303.0,
    4_194_304.0,
    1e7,
    -1e7,
    3e9,
    -3e9,
    300.0,
];

fn lanes_of<V: Lanes>(vector: V) -> Vec<f32> {
    let mut lanes = vec![0.0; V::COUNT];
    vector.store(&mut lanes);
    lanes
}

fn check_same<V: Lanes>(values: &[f32], lanes: impl Fn(V) -> V, single: impl Fn(f32) -> f32) {
    for values in values.chunks_exact(V::COUNT) {
        for (value, lane) in values.iter().zip(lanes_of(lanes(V::load(values)))) {
            assert_eq!(lane.to_bits(), single(*value).to_bits(), "{value}: {lane}");
        }
    }
}

fn check_near<V: Lanes, const LOW: i32, const HIGH: i32>() {
    let mut near = places();
    near.retain(|&place| (LOW as f32 - 4.0..=HIGH as f32 + 4.0).contains(&place));
    near.resize(near.len().next_multiple_of(64), 0.0);
    check_same::<V>(&near, V::round_near::<LOW, HIGH>, |place| {
        place.round_ties_even().clamp(LOW as f32, HIGH as f32) + 0.0
    });
}

fn check<V: Lanes>() {
    let mut all = places();
    all.resize(all.len().next_multiple_of(64), 0.5);
    all.extend(SPECIAL.repeat(4));
    check_same::<V>(&all, V::round_clamped::<-4, 3>, f32::round_clamped::<-4, 3>);
    check_same::<V>(&all, V::round_clamped::<0, 15>, f32::round_clamped::<0, 15>);
    check_same::<V>(
        &all,
        V::round_clamped::<{ i32::MIN }, 63>,
        f32::round_clamped::<{ i32::MIN }, 63>,
    );
    check_same::<V>(&all, V::round_to_byte, f32::round_to_byte);
    check_near::<V, 0, 3>();
    check_near::<V, 0, 15>();
    check_near::<V, 0, 31>();
    check_near::<V, -4, 3>();
    check_near::<V, -32, 31>();

    let other = all[7];
    let same = |lanes: fn(V, V) -> V, single: fn(f32, f32) -> f32| {
        check_same::<V>(&all, |v| lanes(v, V::splat(other)), |v| single(v, other));
    };
    same(V::smaller, |a, b| if a < b { a } else { b });
    same(V::larger, |a, b| if a > b { a } else { b });
    same(|a, b| V::select(a.less(b), a, b), |a, b| if a < b { a } else { b });
    same(|a, b| V::select(a.differs(b), V::splat(1.0), b), |a, b| if a == b { b } else { 1.0 });
    assert!(V::any(V::load(&all).less(V::splat(all[0].next_up()))));
    assert!(!V::any(V::load(&all).less(V::splat(all[0]))));

    let numbers: Vec<f32> = (0..40 * 64).map(|number| number as f32).collect();
    for (i, column) in V::transpose::<16>(&numbers, 40).into_iter().enumerate() {
        for (l, lane) in lanes_of(column).into_iter().enumerate() {
            assert_eq!(lane, (40 * l + i) as f32);
        }
    }
    let mut bytes = [7; 65];
    V::load(&numbers).store_bytes(&mut bytes);
    assert!(bytes[..V::COUNT].iter().zip(0..).all(|(byte, expected)| *byte == expected));
    assert_eq!(bytes[V::COUNT], 7);
}

#[test]
fn single_lanes_and_pairs_do_what_they_say() {
    check::<f32>();
    check::<Pair<Pair<f32>>>();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn registers_do_what_single_numbers_do() {
    use crate::support::processor::InstructionSet;

    #[target_feature(enable = "avx2")]
    fn avx2() {
        check::<Avx2>();
        check::<Pair<Avx2>>();
    }
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
    fn avx512() {
        check::<Avx512>();
        check::<Pair<Avx512>>();
    }
    if InstructionSet::Avx2.available() {
        // SAFETY: the machine has it.
        unsafe { avx2() };
    }
    if InstructionSet::Avx512.available() {
        // SAFETY: the machine has it.
        unsafe { avx512() };
    }
}

#[cfg(target_arch = "aarch64")]
#[test]
fn registers_do_what_single_numbers_do() {
    check::<Neon>();
    check::<Pair<Pair<Neon>>>();
}
