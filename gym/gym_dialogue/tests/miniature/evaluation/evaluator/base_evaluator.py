"""A miniature of what an evaluator puts into prompts, and around the verifier's messages."""


class BaseEvaluator:
    def formulate_oracle_arguments(self, treat_face_cards_as_10, target_number):
        self.oracle_arguments = {}
        self.oracle_arguments["face_card_msg"] = (
            "'J', 'Q', and 'K' stand for '10'."
            if treat_face_cards_as_10
            else "'J', 'Q', and 'K' stand for '11', '12', and '13' in this order."
        )
        self.oracle_arguments["target_number"] = str(target_number)

    def hear(self, info):
        return {"role": "user", "content": f"Not so, as {info['Verify Info']} Try again"}
