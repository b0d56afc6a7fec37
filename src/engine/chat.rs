//! Chat templates: messages in, the model's own prompt format out.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

use super::EngineError;
use crate::support::calendar::civil_date;
use crate::tokenizer::Vocabulary;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// The conversation in the model's chat format, with the opening of the assistant's turn if
/// `add_generation_prompt`. Where the template spells the beginning-of-sequence token that
/// [`Vocabulary::encode`] puts first anyway, it is left out, so that it appears once.
///
/// # Errors
/// A model without a template, and whatever the template raises.
pub fn render_chat(
    vocabulary: &Vocabulary,
    messages: &[ChatMessage],
    add_generation_prompt: bool,
) -> Result<String, EngineError> {
    let template = vocabulary.chat_template.as_deref().ok_or_else(|| {
        EngineError::Unusable(
            "the model has no chat template (tokenizer.chat_template): give it a plain prompt"
                .to_string(),
        )
    })?;
    let token_text = |token: Option<u32>| {
        token.and_then(|token| vocabulary.tokenizer.id_to_token(token)).unwrap_or_default()
    };
    let bos_token = token_text(vocabulary.bos);
    let values = context! {
        messages => message_values(messages),
        add_generation_prompt,
        bos_token => bos_token.as_str(),
        eos_token => token_text(vocabulary.eos),
    };
    let rendered = environment()
        .render_str(template, values)
        .map_err(|error| EngineError::Unusable(format!("the model's chat template: {error:#}")))?;
    match rendered.strip_prefix(&bos_token) {
        Some(rest) if vocabulary.add_bos => Ok(rest.to_string()),
        _ => Ok(rendered),
    }
}

fn message_values(messages: &[ChatMessage]) -> Vec<Value> {
    let value = |ChatMessage { role, content }: &ChatMessage| context! { role, content };
    messages.iter().map(value).collect()
}

/// Instructions that a template may take: a model file must not be able to hang its reader.
const TEMPLATE_STEPS: u64 = 10_000_000;

/// The dialect in which models write their templates: Python's string methods, and the functions
/// and whitespace rules of transformers' `apply_chat_template`.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are the usual ones"));
    environment.set_fuel(Some(TEMPLATE_STEPS));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        format_time(&format, now.map_or(0, |time| time.as_secs()))
    });
    environment
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// The fields of `strftime` that templates use, in UTC; an unknown field stays as it is.
fn format_time(format: &str, unix_seconds: u64) -> String {
    let days = unix_seconds / 86_400;
    let (year, month, day) = civil_date(days);
    // 1 January 1970 was a Thursday.
    let weekday = WEEKDAYS[((days + 3) % 7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let (hour, minute, second) =
        (unix_seconds / 3600 % 24, unix_seconds / 60 % 60, unix_seconds % 60);
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('Y') => text += &year.to_string(),
            Some('m') => text += &format!("{month:02}"),
            Some('d') => text += &format!("{day:02}"),
            Some('B') => text += month_name,
            Some('b') => text += &month_name[..3],
            Some('A') => text += weekday,
            Some('a') => text += &weekday[..3],
            Some('H') => text += &format!("{hour:02}"),
            Some('M') => text += &format!("{minute:02}"),
            Some('S') => text += &format!("{second:02}"),
            Some('%') | None => text.push('%'),
            Some(other) => text.extend(['%', other]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(template: &str) -> Result<String, Error> {
        let message =
            |role: &str, text: &str| ChatMessage { role: role.into(), content: text.into() };
        let messages = [message("system", "Be brief. "), message("user", "Hi")];
        environment().render_str(
            template,
            context! { messages => message_values(&messages), add_generation_prompt => true },
        )
    }

    #[test]
    fn a_chat_ml_template_renders_as_in_transformers() {
        let template = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + \
                        message['content'].strip() + '<|im_end|>' + '\\n'}}{% endfor %}\n\
                        {%- if add_generation_prompt %}\n{{ '<|im_start|>assistant\\n' }}{% endif %}";
        assert_eq!(
            render(template).unwrap(),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
             <|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_template_can_refuse() {
        let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
        assert!(format!("{error:#}").contains("roles must alternate"));
    }

    #[test]
    fn a_template_cannot_run_for_ever() {
        let nested =
            "{% for i in range(9999) %}{% for j in range(9999) %}{{ j }}{% endfor %}{% endfor %}";
        assert!(render(nested).is_err());
    }

    #[test]
    fn dates_read_as_in_strftime() {
        let leap_day = 1_709_164_800 + 3_600 * 13 + 62;
        assert_eq!(
            format_time("%d %b %Y, %A %H:%M:%S %q%%", leap_day),
            "29 Feb 2024, Thursday 13:01:02 %q%"
        );
        assert_eq!(format_time("%a %Y-%m-%d", 951_868_800), "Wed 2000-03-01");
        assert_eq!(format_time("%B", 0), "January");
    }
}
