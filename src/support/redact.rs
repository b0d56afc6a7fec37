//! Addresses as messages and records show them: without secrets.

/// A query field whose name contains one of these has a secret as its value.
const SECRETS: [&str; 9] =
    ["key", "token", "secret", "passw", "pwd", "signature", "credential", "auth", "session"];

/// A text without what addresses in it may carry and nobody else should read: user names and passwords,
/// and the values of query fields that are keys by their names.
pub fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(scheme) = rest.find("://") {
        let (before, after) = rest.split_at(scheme + "://".len());
        let end = after.find(|c: char| c.is_whitespace() || "'\"<>`".contains(c));
        let (address, others) = after.split_at(end.unwrap_or(after.len()));
        shown += before;
        shown += &without_values(without_user(address));
        rest = others;
    }
    shown + rest
}

/// What follows the scheme, without a user name and a password.
fn without_user(address: &str) -> &str {
    let authority = &address[..address.find(['/', '?', '#']).unwrap_or(address.len())];
    // A password in which these characters are not escaped reaches further: what there is of it is no
    // port.
    let is_cut = !authority.ends_with(']')
        && authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_err());
    let user = if is_cut { address } else { authority };
    user.rfind('@').map_or(address, |at| &address[at + 1..])
}

fn without_values(address: &str) -> String {
    let Some((path, rest)) = address.split_once('?') else { return address.to_string() };
    let (query, fragment) = rest.split_at(rest.find('#').unwrap_or(rest.len()));
    let fields: Vec<String> = query.split('&').map(without_value).collect();
    format!("{path}?{}{fragment}", fields.join("&"))
}

fn without_value(field: &str) -> String {
    let Some((name, _)) = field.split_once('=') else { return field.to_string() };
    let lower = name.to_ascii_lowercase();
    match lower == "sig" || SECRETS.iter().any(|secret| lower.contains(secret)) {
        true => format!("{name}=…"),
        false => field.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(shown("https://me:secret@host/simple"), "https://host/simple");
        assert_eq!(shown("https://me:s@cret@host:80?a=b"), "https://host:80?a=b");
        assert_eq!(shown("https://me:se/cr?et@host/simple"), "https://host/simple");
        assert_eq!(
            shown("GET 'https://me:pw@one/' failed, then http://token@two"),
            "GET 'https://one/' failed, then http://two"
        );
        for harmless in
            ["https://host/a@b", "http://host:80/a@b", "http://[::1]/a@b", "host", "a@b", "://"]
        {
            assert_eq!(shown(harmless), harmless);
        }
    }

    #[test]
    fn keys_in_queries_are_not_shown() {
        assert_eq!(
            shown("https://h/v1?model=m&api_key=k1&X-Amz-Signature=ab%2F#top"),
            "https://h/v1?model=m&api_key=…&X-Amz-Signature=…#top"
        );
        assert_eq!(shown("https://h/?sig=1&design=2"), "https://h/?sig=…&design=2");
    }
}
