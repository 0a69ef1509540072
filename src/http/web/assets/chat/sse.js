/**
 * Server-sent events from text in any cut, by the rules of the HTML standard; a line may end in LF, CR or CRLF.
 * The returned function takes the next piece of text and gives the events that it completed, each with the id and the
 * `retry` (milliseconds) that were told last.
 */
export function eventParser() {
  let rest = '';
  let afterReturn = false;
  let type = '';
  let data = [];
  let id = '';
  let retry;

  function takeLine(line, events) {
    if (line === '') {
      if (data.length > 0) events.push({ type: type || 'message', data: data.join('\n'), id, retry });
      type = '';
      data = [];
      return;
    }
    const colon = line.indexOf(':');
    if (colon === 0) return;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + (line[colon + 1] === ' ' ? 2 : 1));
    if (field === 'data') data.push(value);
    else if (field === 'event') type = value;
    else if (field === 'id' && !value.includes('\0')) id = value;
    else if (field === 'retry' && /^\d+$/.test(value)) retry = Number(value);
  }

  return function push(text) {
    if (text === '') return [];
    const events = [];
    const fresh = afterReturn && text[0] === '\n' ? text.slice(1) : text;
    afterReturn = text.endsWith('\r');
    const lines = (rest + fresh).split(/\r\n|\n|\r/);
    rest = lines.pop();
    for (const line of lines) takeLine(line, events);
    return events;
  };
}

/** The events of a response as they come. What stands after the last blank line is no event. */
export async function* readEvents(response) {
  const push = eventParser();
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* push(value);
    }
  } finally {
    // Whoever stops listening early closes the connection too; after an abort there is nothing left to close.
    await reader.cancel().catch(() => {});
  }
}
