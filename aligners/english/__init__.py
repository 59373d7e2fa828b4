"""English writing -> the words that are spoken: numbers, money, dates, abbreviations and symbols. Rules are our own."""
