"""What the page says, by language. A further language is a further column; a test sees that none has gaps."""

LANGUAGES = {"en": "English", "de": "Deutsch"}
TEXTS: dict[str, dict[str, str]] = {
    "good": {"en": "GOOD", "de": "GUT"},
    "defect": {"en": "DEFECT", "de": "DEFEKT"},
    "error": {"en": "NOT JUDGED", "de": "NICHT BEURTEILT"},
    "none": {"en": "NO VERDICT", "de": "KEIN URTEIL"},
    "waiting": {"en": "Waiting for the first part", "de": "Wartet auf das erste Teil"},
    "waiting_how": {
        "en": "Drop a picture here, paste one, or let the camera write to the watched folder.",
        "de": "Ein Bild hierher ziehen, einfügen, oder die Kamera in den überwachten Ordner schreiben lassen.",
    },
    "wall": {"en": "All stations", "de": "Alle Stationen"},
    "statistics": {"en": "Statistics", "de": "Statistik"},
    "region": {"en": "Region of interest", "de": "Prüfbereich"},
    "calibration": {"en": "Calibration", "de": "Kalibrierung"},
    "record": {"en": "Record", "de": "Eintrag"},
    "part": {"en": "Part", "de": "Teil"},
    "lot": {"en": "Lot", "de": "Los"},
    "time": {"en": "Time (UTC)", "de": "Zeit (UTC)"},
    "score": {"en": "Score", "de": "Wert"},
    "threshold": {"en": "Threshold", "de": "Schwelle"},
    "p_value": {"en": "p-value", "de": "p-Wert"},
    "latency": {"en": "Time taken", "de": "Dauer"},
    "regions": {"en": "Regions", "de": "Stellen"},
    "was": {"en": "What was this part really?", "de": "Was war dieses Teil wirklich?"},
    "label_good": {"en": "Good", "de": "Gut"},
    "label_defect": {"en": "Defect", "de": "Defekt"},
    "labelled": {"en": "Labelled", "de": "Bestätigt als"},
    "heat": {"en": "Heat map", "de": "Wärmebild"},
    "outlines": {"en": "Outlines", "de": "Umrisse"},
    "live": {"en": "Live", "de": "Live"},
    "held": {"en": "Held: a newer part is there", "de": "Angehalten: es gibt ein neueres Teil"},
    "filter_all": {"en": "All", "de": "Alle"},
    "filter_defect": {"en": "Defects", "de": "Defekte"},
    "filter_good": {"en": "Good", "de": "Gute"},
    "filter_unlabelled": {"en": "Unlabelled", "de": "Unbestätigte"},
    "filter_error": {"en": "Not judged", "de": "Nicht beurteilte"},
    "history": {"en": "History", "de": "Verlauf"},
    "nothing": {"en": "Nothing here yet", "de": "Noch nichts"},
    "false_alarms": {"en": "False-alarm rate", "de": "Fehlalarmrate"},
    "changes": {
        "en": "{count} of {records} verdicts would change: {to_defect} to defect, {to_good} to good",
        "de": "{count} von {records} Urteilen wären andere: {to_defect} dann defekt, {to_good} dann gut",
    },
    "promise": {
        "en": "Of good parts, {average} raise a false alarm on average, with 95 % confidence at most {confident}.",
        "de": "Von guten Teilen lösen im Mittel {average} Fehlalarm aus, mit 95 % Sicherheit höchstens {confident}.",
    },
    "lowest": {
        "en": "{scores} calibration scores promise nothing below {lowest}.",
        "de": "{scores} Kalibrierwerte versprechen nichts unter {lowest}.",
    },
    "back": {"en": "Back to the station's rate", "de": "Zurück zur Rate der Station"},
    "good_examples": {"en": "Good parts, to compare", "de": "Gute Teile zum Vergleich"},
    "repainted": {"en": "Repainted as good", "de": "Als gut nachgemalt"},
    "upload": {"en": "Choose pictures", "de": "Bilder wählen"},
    "dark": {"en": "Dark or light", "de": "Dunkel oder hell"},
    "keys_list": {
        "en": "G good · D defect · ← older · → newer · Esc live · H heat map · O outlines · S statistics · 1–9 station",
        "de": "G gut · D defekt · ← älter · → neuer · Esc live · H Wärmebild · O Umrisse · S Statistik · 1–9 Station",
    },
    "records": {"en": "Records", "de": "Einträge"},
    "share": {"en": "Share of defects", "de": "Anteil Defekte"},
    "per_minute": {"en": "Last minute", "de": "Letzte Minute"},
    "quantiles": {"en": "Time of a verdict: median, 95 %, 99 %", "de": "Dauer eines Urteils: Median, 95 %, 99 %"},
    "agreement": {"en": "Labels and verdicts", "de": "Bestätigungen und Urteile"},
    "agree": {"en": "agree", "de": "stimmen überein"},
    "alarms": {"en": "false alarms among good", "de": "Fehlalarme unter Guten"},
    "missed": {"en": "missed among defects", "de": "übersehen unter Defekten"},
    "agreement_note": {
        "en": "People label what they look at: these are rates of the labelled parts, with exact 95 % intervals.",
        "de": "Bestätigt wird, was man ansieht: Raten der bestätigten Teile, mit exakten 95-%-Intervallen.",
    },
    "drift": {
        "en": "Do parts still look like the calibration?",
        "de": "Sehen Teile noch aus wie bei der Kalibrierung?",
    },
    "drift_fine": {"en": "Yes: no evidence of a change.", "de": "Ja: nichts spricht für eine Änderung."},
    "drift_alarm": {"en": "No", "de": "Nein"},
    "changed": {
        "en": "{alarm}. Mend the light or the camera, or calibrate again.",
        "de": "{alarm}. Licht oder Kamera richten, oder neu kalibrieren.",
    },
    "scores": {"en": "Scores", "de": "Werte"},
    "region_how": {
        "en": "Click corners around what shall be inspected; a second click on the first one begins another area.",
        "de": "Ecken um das klicken, was geprüft werden soll; ein Klick auf die erste beginnt eine weitere Fläche.",
    },
    "undo": {"en": "Undo", "de": "Zurück"},
    "clear": {"en": "Clear", "de": "Leeren"},
    "preview": {"en": "See the effect", "de": "Wirkung ansehen"},
    "apply": {"en": "Apply", "de": "Übernehmen"},
    "close": {"en": "Close", "de": "Schließen"},
    "effect": {
        "en": "Calibrated on {pictures} parts labelled good: threshold {threshold}. Of {records} records, "
        "{to_defect} would change to defect, {to_good} to good.",
        "de": "Kalibriert an {pictures} als gut bestätigten Teilen: Schwelle {threshold}. Von {records} Einträgen "
        "würden {to_defect} defekt, {to_good} gut.",
    },
    "applied": {"en": "The station judges with it now.", "de": "Die Station urteilt jetzt damit."},
    "calibrate_how": {
        "en": "The model stays; its threshold follows from the parts that people labelled good.",
        "de": "Das Modell bleibt; seine Schwelle folgt aus den Teilen, die als gut bestätigt wurden.",
    },
    "not_kept": {"en": "picture not kept", "de": "Bild nicht aufgehoben"},
    "token": {"en": "Your token", "de": "Zugangstoken"},
    "log_in": {"en": "Log in", "de": "Anmelden"},
    "wrong_token": {"en": "Nobody has this token", "de": "Dieses Token hat niemand"},
    "problem": {"en": "Problem", "de": "Störung"},
    "sink_waits": {"en": "{count} messages wait for {sink}", "de": "{count} Meldungen warten auf {sink}"},
}


def say(language: str, key: str, **values: object) -> str:
    """
    >>> say("de", "sink_waits", count=3, sink="mqtt")
    '3 Meldungen warten auf mqtt'
    """
    return TEXTS[key][language].format(**values) if values else TEXTS[key][language]
