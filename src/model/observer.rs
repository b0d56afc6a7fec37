//! Looking at what a forward pass multiplies its weight matrices with.

/// Sees the activations of a forward pass on their way into matrix products.
pub trait ActivationObserver: Send {
    /// Whether [`ActivationObserver::observe`] is to be called for these matrices, which share
    /// their input. On a device, the activations are copied only if it is.
    fn wants(&self, tensors: &[String]) -> bool;

    /// Each of the matrices named `tensors` is multiplied with `activations`: a row of
    /// `columns` elements a token.
    fn observe(&mut self, tensors: &[String], activations: &[f32], columns: usize);
}
