export { createWordFilters } from './filters.ts';
export { Fold } from './fold.ts';
export { filterReplies } from './model.ts';
export { maskBankCards, maskEmails, maskIdCards, maskMobiles, maskPersonal } from './pii.ts';
export { openWordSource, type WordSource } from './source.ts';
export { loadWords, WordListError } from './words.ts';
