//! What goes into the next step.

/// Prompt tokens of a step at most while other sequences wait for their next token: what bounds the time
/// between two of theirs.
const PREFILL_BESIDE_DECODE: usize = 128;

/// A running sequence, as far as planning needs to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// Tokens that are to be computed.
    pub pending: usize,
    /// The prompt has been read.
    pub decoding: bool,
    /// Every token of the step needs an output.
    pub outputs_all: bool,
    /// All tokens are computed in one step, because each sees all others.
    pub whole: bool,
}

/// How many tokens of each sequence the next step computes. Each that decodes gets its one; the rest of the
/// columns goes to prompts, in the order of their admission.
pub(super) fn plan(needs: &[Need], columns: usize, outputs: usize) -> Vec<usize> {
    let mut plan = vec![0; needs.len()];
    let mut left = columns;
    let mut outputs_left = outputs;
    for (take, need) in plan.iter_mut().zip(needs).filter(|(_, n)| n.decoding) {
        *take = need.pending.min(left);
        left -= *take;
        outputs_left = outputs_left.saturating_sub(1);
    }
    if left < columns {
        left = left.min(PREFILL_BESIDE_DECODE);
    }
    for (take, need) in plan.iter_mut().zip(needs).filter(|(_, n)| !n.decoding) {
        let most = if need.outputs_all { outputs_left } else { need.pending };
        if outputs_left == 0 {
            break;
        }
        let part = need.pending.min(left).min(most);
        *take = if need.whole && part < need.pending { 0 } else { part };
        if *take == 0 {
            continue;
        }
        left -= *take;
        outputs_left -= if need.outputs_all { *take } else { 1 };
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode() -> Need {
        Need { pending: 1, decoding: true, outputs_all: false, whole: false }
    }

    fn prompt(pending: usize) -> Need {
        Need { pending, decoding: false, outputs_all: false, whole: false }
    }

    #[test]
    fn a_prompt_takes_all_when_it_is_alone() {
        assert_eq!(plan(&[prompt(1000)], 512, 4), [512]);
        assert_eq!(plan(&[prompt(1000), prompt(7)], 512, 4), [512, 0]);
        assert_eq!(plan(&[prompt(500), prompt(70)], 512, 4), [500, 12]);
    }

    #[test]
    fn those_that_decode_go_first() {
        assert_eq!(plan(&[prompt(1000), decode(), decode()], 512, 4), [128, 1, 1]);
        assert_eq!(plan(&[decode(), prompt(100), prompt(100)], 512, 4), [1, 100, 28]);
        assert_eq!(plan(&[decode(); 3], 3, 3), [1, 1, 1]);
    }

    #[test]
    fn a_whole_prompt_waits_until_it_fits() {
        let whole = |pending| Need { whole: true, outputs_all: true, ..prompt(pending) };
        assert_eq!(plan(&[whole(300), whole(300), whole(200)], 512, 512), [300, 0, 200]);
        assert_eq!(plan(&[whole(512)], 512, 512), [512]);
    }

    #[test]
    fn outputs_are_not_more_than_there_are() {
        let mean = Need { outputs_all: true, ..prompt(100) };
        assert_eq!(plan(&[mean, decode()], 512, 8), [7, 1]);
        assert_eq!(plan(&[prompt(3), mean], 512, 8), [3, 7]);
        assert_eq!(plan(&[prompt(3), prompt(3)], 512, 1), [3, 0]);
    }
}
