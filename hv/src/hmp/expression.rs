//! Numbers and expressions as the human monitor takes them: `$rip + 4 * 2`, `0x10`, `'a'`, `(1 << 2)` is not.
//!
//! QEMU's grammar: sums of products of unary terms, where the bitwise operators bind like products
//! (`*` `/` `%`) or sums (`+` `-`), and `&` `|` `^` weakest. Parentheses are kept on a stack of fixed depth.

use super::Registers;

/// Parentheses and unary operators that may be open at once.
const MAX_DEPTH: usize = 32;

/// Why an expression has no value, in QEMU's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpressionError {
    /// The text ended where a term was due.
    UnexpectedEnd,
    /// A character that starts no term.
    InvalidCharacter,
    /// `$name` is no register.
    UnknownRegister,
    /// A parenthesis stays open.
    ParenthesisExpected,
    /// Division by 0.
    DivideByZero,
    /// More than [`MAX_DEPTH`] open parentheses and operators.
    TooDeep,
    /// `'a` without its end.
    QuoteExpected,
    /// A number beyond 64 bits.
    NumberTooLarge,
}

impl ExpressionError {
    /// QEMU's text for it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::UnexpectedEnd => "unexpected end of expression",
            Self::InvalidCharacter => "invalid char in expression",
            Self::UnknownRegister => "unknown register",
            Self::ParenthesisExpected => "')' expected",
            Self::DivideByZero => "division by zero",
            Self::TooDeep => "expression too deeply nested",
            Self::QuoteExpected => "missing terminating ' character",
            Self::NumberTooLarge => "number too large",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operator {
    Open,
    Negate,
    Complement,
    Plus,
    Binary(u8),
}

impl Operator {
    const fn precedence(self) -> u8 {
        match self {
            Self::Open => 0,
            Self::Binary(b'&' | b'|' | b'^') => 1,
            Self::Binary(b'+' | b'-') => 2,
            Self::Binary(_) => 3,
            Self::Negate | Self::Complement | Self::Plus => 4,
        }
    }
}

struct Stacks {
    values: heapless::Vec<i64, { MAX_DEPTH + 1 }>,
    operators: heapless::Vec<Operator, MAX_DEPTH>,
}

impl Stacks {
    fn push_value(&mut self, value: i64) -> Result<(), ExpressionError> {
        self.values.push(value).map_err(|_| ExpressionError::TooDeep)
    }

    fn push_operator(&mut self, operator: Operator) -> Result<(), ExpressionError> {
        self.operators.push(operator).map_err(|_| ExpressionError::TooDeep)
    }

    /// Applies the operators above the last open parenthesis that bind at least as strongly as `precedence`.
    fn reduce(&mut self, precedence: u8) -> Result<(), ExpressionError> {
        while let Some(&operator) = self.operators.last()
            && operator != Operator::Open
            && operator.precedence() >= precedence
        {
            self.operators.pop();
            let right = self.values.pop().ok_or(ExpressionError::UnexpectedEnd)?;
            let value = match operator {
                Operator::Negate => right.wrapping_neg(),
                Operator::Complement => !right,
                Operator::Plus | Operator::Open => right,
                Operator::Binary(symbol) => {
                    let left = self.values.pop().ok_or(ExpressionError::UnexpectedEnd)?;
                    match symbol {
                        b'+' => left.wrapping_add(right),
                        b'-' => left.wrapping_sub(right),
                        b'*' => left.wrapping_mul(right),
                        b'&' => left & right,
                        b'|' => left | right,
                        b'^' => left ^ right,
                        _ if right == 0 => return Err(ExpressionError::DivideByZero),
                        b'/' => left.wrapping_div(right),
                        _ => left.wrapping_rem(right),
                    }
                }
            };
            self.push_value(value)?;
        }
        Ok(())
    }
}

fn skip_spaces(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\n', '\r'])
}

/// One term: a number, a character or a register. Gives the rest of the text.
fn term<'t>(text: &'t str, registers: &dyn Registers) -> Result<(i64, &'t str), ExpressionError> {
    let bytes = text.as_bytes();
    match bytes {
        [] => Err(ExpressionError::UnexpectedEnd),
        [b'\'', character, rest @ ..] => match rest {
            [b'\'', ..] => Ok((i64::from(*character), text.get(3..).unwrap_or(""))),
            _ => Err(ExpressionError::QuoteExpected),
        },
        [b'$', ..] => {
            let name = text.get(1..).unwrap_or("");
            let (name, rest) = super::cut(name, |byte| {
                !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':'))
            });
            registers.register(name).map(|value| (value as i64, rest)).ok_or(ExpressionError::UnknownRegister)
        }
        [b'0'..=b'9', ..] => {
            let (radix, digits) = match bytes {
                [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => {
                    (16, text.get(2..).unwrap_or(""))
                }
                [b'0', digit, ..] if digit.is_ascii_digit() => (8, text.get(1..).unwrap_or("")),
                _ => (10, text),
            };
            let (number, rest) = super::cut(
                digits,
                match radix {
                    16 => |byte| !byte.is_ascii_hexdigit(),
                    8 => |byte| !matches!(byte, b'0'..=b'7'),
                    _ => |byte| !byte.is_ascii_digit(),
                },
            );
            if number.is_empty() {
                return Err(ExpressionError::InvalidCharacter);
            }
            let value = u64::from_str_radix(number, radix).map_err(|_| ExpressionError::NumberTooLarge)?;
            Ok((value as i64, rest))
        }
        _ => Err(ExpressionError::InvalidCharacter),
    }
}

/// The value of the expression at the start of `text`, and the text behind it.
pub fn evaluate<'t>(text: &'t str, registers: &dyn Registers) -> Result<(i64, &'t str), ExpressionError> {
    let mut stacks = Stacks { values: heapless::Vec::new(), operators: heapless::Vec::new() };
    let mut rest = skip_spaces(text);
    loop {
        // A term with its prefixes.
        loop {
            let operator = match rest.as_bytes().first() {
                Some(b'(') => Operator::Open,
                Some(b'-') => Operator::Negate,
                Some(b'~') => Operator::Complement,
                Some(b'+') => Operator::Plus,
                _ => break,
            };
            stacks.push_operator(operator)?;
            rest = skip_spaces(rest.get(1..).unwrap_or(""));
        }
        let (value, behind) = term(rest, registers)?;
        stacks.push_value(value)?;
        rest = skip_spaces(behind);
        // What follows it.
        while rest.starts_with(')') && stacks.operators.contains(&Operator::Open) {
            stacks.reduce(0)?;
            stacks.operators.pop();
            rest = skip_spaces(rest.get(1..).unwrap_or(""));
        }
        match rest.as_bytes().first() {
            Some(&symbol @ (b'+' | b'-' | b'*' | b'/' | b'%' | b'&' | b'|' | b'^')) => {
                let operator = Operator::Binary(symbol);
                stacks.reduce(operator.precedence())?;
                stacks.push_operator(operator)?;
                rest = skip_spaces(rest.get(1..).unwrap_or(""));
            }
            _ => {
                stacks.reduce(0)?;
                if !stacks.operators.is_empty() {
                    return Err(ExpressionError::ParenthesisExpected);
                }
                let value = stacks.values.pop().ok_or(ExpressionError::UnexpectedEnd)?;
                return Ok((value, rest));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rip;
    impl Registers for Rip {
        fn register(&self, name: &str) -> Option<u64> {
            (name == "rip").then_some(0x1000)
        }
    }

    fn value(text: &str) -> Result<i64, ExpressionError> {
        evaluate(text, &Rip).map(|(value, _)| value)
    }

    #[test]
    fn precedence_and_unary() {
        assert_eq!(value("1+2"), Ok(3));
        assert_eq!(value("2+3*4"), Ok(14));
        assert_eq!(value("(2+3)*4"), Ok(20));
        assert_eq!(value("-(1+1)*3"), Ok(-6));
        assert_eq!(value("~0 & 0xff"), Ok(255));
        assert_eq!(value("10-3-2"), Ok(5));
        assert_eq!(value("1|2+4"), Ok(7));
        assert_eq!(value("$rip + 0x10"), Ok(0x1010));
        assert_eq!(value("'a'"), Ok(97));
        assert_eq!(value("0xffffffffffffffff"), Ok(-1));
        assert_eq!(value("010"), Ok(8));
    }

    #[test]
    fn the_rest_is_given_back() {
        assert_eq!(evaluate("16 0x20", &Rip), Ok((16, "0x20")));
        assert_eq!(evaluate("(1) )", &Rip), Ok((1, ")")));
    }

    #[test]
    fn errors_name_the_fault() {
        assert_eq!(value("1+"), Err(ExpressionError::UnexpectedEnd));
        assert_eq!(value("1/0"), Err(ExpressionError::DivideByZero));
        assert_eq!(value("(1"), Err(ExpressionError::ParenthesisExpected));
        assert_eq!(value("$foo"), Err(ExpressionError::UnknownRegister));
        assert_eq!(value("=1"), Err(ExpressionError::InvalidCharacter));
        assert_eq!(value("0x1ffffffffffffffff"), Err(ExpressionError::NumberTooLarge));
        assert_eq!(value("'é'"), Err(ExpressionError::QuoteExpected));
        let mut deep = std::string::String::new();
        for _ in 0..100_000 {
            deep.push('(');
        }
        assert_eq!(value(&deep), Err(ExpressionError::TooDeep));
    }
}
