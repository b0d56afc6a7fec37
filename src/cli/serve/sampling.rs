//! How tokens are chosen where requests do not say.

use crate::engine::Sampling;
use crate::server::SamplingDefaults;

/// The options.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Where a request does not say")]
pub struct SamplingFlags {
    /// 0 always takes the most likely token; higher is more varied [default: that of the protocol]
    #[arg(long, visible_alias = "temp", value_name = "T")]
    temperature: Option<f32>,

    /// Draw from the K most likely tokens; 0 for all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Draw from the most likely tokens that together have this probability
    #[arg(long, value_name = "P")]
    top_p: Option<f32>,

    /// Draw from tokens at least this fraction as likely as the most likely one
    #[arg(long, value_name = "P")]
    min_p: Option<f32>,

    /// Draw from the tokens of typical surprise that together have this probability
    #[arg(long, visible_alias = "typical", value_name = "P")]
    typical_p: Option<f32>,

    /// Make recent tokens less likely; 1 for no penalty
    #[arg(long, value_name = "R")]
    repeat_penalty: Option<f32>,

    /// How many tokens are recent; -1 for all
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    repeat_last_n: Option<i64>,

    /// Taken off the logit of each token that came before
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    presence_penalty: Option<f32>,

    /// Taken off a token's logit for each time that it came before
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    frequency_penalty: Option<f32>,

    /// Seed of the draws; -1 for a new one for each request
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    seed: Option<i64>,
}

impl SamplingFlags {
    /// What they say.
    ///
    /// # Errors
    /// A figure out of its range.
    pub fn defaults(&self) -> anyhow::Result<SamplingDefaults> {
        let all = |count: i64| usize::try_from(count).unwrap_or(usize::MAX);
        let defaults = SamplingDefaults {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            repeat_window: self.repeat_last_n.map(all),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            seed: self.seed.and_then(|seed| u64::try_from(seed).ok()),
        };
        defaults.over(Sampling::default()).check()?;
        Ok(defaults)
    }
}
