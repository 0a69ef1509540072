import type { FinishReason } from '../../domain/conversations/conversation.ts';

type Meaning = FinishReason | 'none';

/**
 * The names that model servers use for each reason, in lower case and without punctuation. `none` means "no reason
 * yet".
 */
const NAMES: readonly (readonly [Meaning, string])[] = [
  [
    'stop',
    `stop stopped stopsequence stopstring stoptoken stopword eos eostoken endofsequence endoftext endturn endofturn
    complete completed finish finished done end normal`,
  ],
  ['tool_calls', 'toolcall toolcalls tooluse functioncall functioncalls'],
  [
    'length',
    `length maxlength modellength lengthlimit maxtoken maxtokens maxnewtokens maxoutputtokens maxcompletiontokens
    maxgeneratedtokens tokenlimit truncated contextlength maxcontextlength contextlengthexceeded contextwindow
    contextwindowexceeded modelcontextwindowexceeded errorlimit`,
  ],
  [
    'content_filter',
    `contentfilter contentfiltered filtered filter safety imagesafety recitation imagerecitation sensitive
    sensitivecontent risk contentrisk prohibitedcontent imageprohibitedcontent blocklist blocked spii refusal guardrail
    guardrailintervened moderation contentmoderation contentpolicy flagged modelarmor toxicity errortoxic`,
  ],
  ['error', 'error'],
  ['none', 'null none nil undefined unspecified finishreasonunspecified'],
];

const MEANINGS: ReadonlyMap<string, Meaning> = new Map(
  NAMES.flatMap(([meaning, names]) => names.split(/\s+/).map((name) => [name, meaning])),
);

/** What a `finish_reason` means. Undefined: unknown, so the reply must not count as complete. */
export function meaningOf(reason: string): Meaning | undefined {
  return MEANINGS.get(reason) ?? MEANINGS.get(reason.replaceAll(/[^a-z]/gi, '').toLowerCase());
}
