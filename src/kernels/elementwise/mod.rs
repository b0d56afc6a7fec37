//! Norms, activations, sums and rotations: everything that touches each activation once.
//!
//! The loops are written so that the compiler vectorises them, and are compiled once for each
//! instruction set; the widest that the machine has is picked at run time.

mod activation;
mod exponential;
mod log_softmax;
mod logits;
mod norm;
mod rotary;
mod rows;
mod scan;

pub use self::activation::{Activation, activate_row, gate_row};
pub use self::log_softmax::{divergence_above, log_sum_exp, mean_difference};
pub use self::logits::scale_and_cap_row;
pub use self::norm::{Norm, add_normalized_row, norm_heads, norm_row};
pub use self::rotary::rotate_heads;
pub use self::rows::{Rows, for_each_row};
pub use self::scan::{has_nan, position_of_largest};
