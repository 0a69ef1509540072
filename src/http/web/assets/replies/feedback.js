import { button, element, label } from '../chat/dom.js';
import { rateMessage } from '../conversations/api.js';
import { setText } from '../i18n.js';

const COMMENT_CHARS = 2000;

/**
 * The rating of a reply. A second press removes it; a comment is optional.
 * @param stored its feedback, where it has any
 * @returns the buttons, and the form for the comment
 */
export function feedbackOf(id, stored) {
  let rating = stored?.rating;
  let saved = Promise.resolve();
  const buttons = ['up', 'down'].map((value) =>
    button(value, () => save(() => (rating === value ? undefined : value))),
  );
  const state = element('span');
  state.role = 'status';
  const field = label(label(element('input'), 'comment'), 'comment', 'placeholder');
  field.maxLength = COMMENT_CHARS;
  field.value = stored?.comment ?? '';
  const form = element('form', 'comment', field, Object.assign(button('commentSend'), { type: 'submit' }));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    save(() => rating);
  });

  function show(hasForm) {
    for (const made of buttons) made.ariaPressed = String(made.className === rating);
    form.hidden = !hasForm;
  }

  /** One change after the other. */
  function save(next) {
    saved = saved.then(() => store(next()));
  }

  async function store(next) {
    const comment = field.value.trim();
    try {
      await rateMessage(id, next && { rating: next, ...(comment && { comment }) });
      // The form is shown after a new rating, and hidden when its comment is stored.
      const isNew = next !== rating;
      rating = next;
      show(isNew && next !== undefined);
      setText(state, next ? 'feedbackSaved' : 'feedbackRemoved');
    } catch {
      setText(state, 'feedbackFailed');
    }
  }

  show(field.value !== '');
  return { buttons: [...buttons, state], form };
}
