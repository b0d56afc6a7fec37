//! Plain functions compiled for every instruction set.

/// Compiles a function over slices for each instruction set, under one name that picks.
macro_rules! for_each_instruction_set {
    ($(#[$documentation:meta])* $visibility:vis fn $name:ident($($argument:ident: $kind:ty),*) $(-> $result:ty)? $body:block) => {
        $(#[$documentation])*
        $visibility fn $name($($argument: $kind),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($argument: $kind),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $kind),*) $(-> $result)? {
                    portable($($argument),*)
                }
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")]
                fn avx512($($argument: $kind),*) $(-> $result)? {
                    portable($($argument),*)
                }
                use $crate::support::processor::InstructionSet;
                match InstructionSet::current() {
                    // SAFETY: `current` names only sets that this machine has.
                    InstructionSet::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: as above.
                    InstructionSet::Avx2 => return unsafe { avx2($($argument),*) },
                    InstructionSet::Scalar | InstructionSet::Neon => {}
                }
            }
            portable($($argument),*)
        }
    };
}

pub(super) use for_each_instruction_set;
