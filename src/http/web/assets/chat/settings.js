import { listModels, updateConversation } from '../conversations/api.js';
import { setText } from '../i18n.js';
import { element } from './dom.js';

const find = (id) => document.getElementById(id);

/** How the fields of the form are called in `parameters`. */
const NUMBERS = ['temperature', 'top_p', 'max_tokens'];

/** The panel with the model, the system prompt and the parameters of the conversation. */
export class Settings {
  #form = find('settings');
  #toggle = find('settings-toggle');
  #state = find('settings-state');
  #conversation;
  /** Parameters that have no field, for example tools. */
  #others = {};
  /** Resolves when all changes are stored. */
  saved = Promise.resolve();

  constructor() {
    this.#toggle.addEventListener('click', () => this.#open(this.#form.hidden));
    this.#form.addEventListener('submit', (event) => event.preventDefault());
    this.#form.addEventListener('change', () => this.save(this.#conversation));
    this.#form.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape') return;
      event.stopPropagation();
      this.#open(false);
      this.#toggle.focus();
    });
  }

  /** Shows those of a conversation; without an argument, of a new one. */
  show({ conversation_id, system, model, parameters = {} } = {}) {
    this.#conversation = conversation_id;
    this.#state.hidden = true;
    const { elements } = this.#form;
    const { temperature, top_p, max_tokens, reasoning_effort, ...others } = parameters;
    this.#others = others;
    const values = { system, model, temperature, top_p, max_tokens, reasoning_effort };
    for (const [name, value] of Object.entries(values)) elements[name].value = value ?? '';
  }

  /** For the first turn of a conversation: only what is set. */
  get turn() {
    const { system, model, parameters } = this.#values();
    return {
      ...(system && { system }),
      ...(model && { model }),
      ...(Object.keys(parameters).length > 0 && { parameters }),
    };
  }

  /** Stores them with a conversation, for its later turns; one change after the other. */
  save(conversation) {
    this.#conversation = conversation;
    if (conversation === undefined || !this.#form.checkValidity()) return;
    this.#state.hidden = true;
    this.saved = this.saved.then(() => this.#store(conversation));
  }

  async #store(conversation) {
    const isStored = await updateConversation(conversation, this.#values()).then(
      () => true,
      () => false,
    );
    setText(this.#state, isStored ? 'settingsSaved' : 'settingsFailed');
    this.#state.hidden = false;
  }

  #values() {
    const { elements } = this.#form;
    const text = (name) => elements[name].value.trim() || null;
    const parameters = { ...this.#others };
    for (const name of NUMBERS)
      if (elements[name].value !== '') parameters[name] = elements[name].valueAsNumber;
    if (text('reasoning_effort')) parameters.reasoning_effort = text('reasoning_effort');
    return { system: text('system'), model: text('model'), parameters };
  }

  #open(isOpen) {
    this.#form.hidden = !isOpen;
    this.#toggle.ariaExpanded = String(isOpen);
    if (!isOpen) return;
    this.#form.elements.model.focus();
    void this.#suggestModels();
  }

  async #suggestModels() {
    const list = find('models');
    const models = list.hasChildNodes() ? [] : await listModels().catch(() => []);
    list.append(...models.map(({ id }) => Object.assign(element('option'), { value: id })));
  }
}
