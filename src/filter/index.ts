export { filterReplies } from './model.ts';
export { maskBankCards, maskEmails, maskIdCards, maskInSteps, maskMobiles, maskPersonal } from './pii/pii.ts';
export { createWordFilters } from './words/filters.ts';
export { Fold } from './words/fold.ts';
export { openWordSource, type WordSource } from './words/source.ts';
export { loadWords, WordListError } from './words/words.ts';
